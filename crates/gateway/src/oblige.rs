//! Inline obligations: what a decision demands of a result on its way out.
//!
//! INVARIANT: a result whose obligation cannot be met does not leave.

use countersign_core::{policy::Obligation, refusal::Code};
use serde_json::Value;

/// Applies the obligations to a result, a tool's own error included.
///
/// # Errors
/// [`Code::UnknownObligation`] for one that is not inline or a result that cannot be read.
pub fn result(obligations: &[Obligation], result: &str) -> Result<String, Code> {
    if obligations.is_empty() {
        return Ok(result.to_owned());
    }
    let mut value: Value = serde_json::from_str(result).map_err(|_| Code::UnknownObligation)?;
    for obligation in obligations {
        match obligation {
            Obligation::Redact { pointers } => redact(&mut value, pointers),
            Obligation::CapBytes { bytes } => {
                cap(&mut value, usize::try_from(*bytes).unwrap_or(usize::MAX));
            }
            Obligation::HumanConfirm { .. } => return Err(Code::UnknownObligation),
        }
    }
    Ok(value.to_string())
}

/// A JSON-RPC error under obligations: its code alone, since nothing says where in its words the
/// kept back parts are.
///
/// # Errors
/// [`Code::UnknownObligation`] for an error that cannot be read.
pub fn error(obligations: &[Obligation], error: &str) -> Result<String, Code> {
    if obligations.is_empty() {
        return Ok(error.to_owned());
    }
    let value: Value = serde_json::from_str(error).map_err(|_| Code::UnknownObligation)?;
    let code = value.get("code").and_then(Value::as_i64).ok_or(Code::UnknownObligation)?;
    Ok(serde_json::json!({ "code": code, "message": "withheld by policy" }).to_string())
}

/// Replaces what the pointers name by null. Text blocks may repeat the structured content, so
/// they are replaced by its remaining structure, or by nothing where there is none.
fn redact(result: &mut Value, pointers: &[String]) {
    for pointer in pointers {
        if let Some(hidden) = result.pointer_mut(pointer) {
            *hidden = Value::Null;
        }
    }
    let structured = result.get("structuredContent").map(Value::to_string).unwrap_or_default();
    for block in result.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(text) = block.get_mut("text") {
            *text = Value::String(structured.clone());
        }
    }
}

/// Cuts every text of the result after `bytes` bytes, at a character's end.
fn cap(result: &mut Value, bytes: usize) {
    let blocks = result.get_mut("content").and_then(Value::as_array_mut);
    for block in blocks.into_iter().flatten() {
        if let Some(Value::String(text)) = block.get_mut("text")
            && text.len() > bytes
        {
            text.truncate(text.floor_char_boundary(bytes));
        }
    }
    let is_long = |v: &Value| v.to_string().len() > bytes;
    if result.get("structuredContent").is_some_and(is_long)
        && let Some(members) = result.as_object_mut()
    {
        members.remove("structuredContent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacted_members_leave_neither_as_structure_nor_as_text() {
        let result = r#"{"content":[{"type":"text","text":"{\"name\":\"Ada\",\"iban\":\"DE1\"}"}],"structuredContent":{"name":"Ada","iban":"DE1"}}"#;
        let duty = Obligation::Redact { pointers: vec!["/structuredContent/iban".into()] };
        let redacted = super::result(&[duty], result).unwrap();
        assert!(!redacted.contains("DE1"), "{redacted}");
        assert!(redacted.contains("Ada"));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let duty = Obligation::CapBytes { bytes: 3 };
        let cut = result(&[duty], r#"{"content":[{"type":"text","text":"aéé"}]}"#).unwrap();
        assert!(cut.contains("\"aé\""), "{cut}");
    }
}
