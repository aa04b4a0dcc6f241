//! `application/x-www-form-urlencoded`, as queries and token requests use it.

/// The pairs of an encoded form; a text that is not UTF-8 after decoding is left out.
#[must_use]
pub fn form_pairs(form: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Some((decode(name)?, decode(value)?))
    };
    form.split('&').filter(|part| !part.is_empty()).filter_map(pair).collect()
}

/// Encodes pairs.
#[must_use]
pub fn form_encode(pairs: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push('&');
        }
        encode(name, &mut form);
        form.push('=');
        encode(value, &mut form);
    }
    form
}

fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut value = [0u8];
                hex::decode_to_slice([bytes.next()?, bytes.next()?], &mut value).ok()?;
                let [value] = value;
                value
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn encode(text: &str, form: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            form.push(char::from(byte));
        } else {
            form.push('%');
            form.push_str(&hex::encode_upper([byte]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_round_trip() {
        let pairs = [("a b", "c&d=e"), ("é", "100%+"), ("", "")];
        let expected: Vec<_> =
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(form_pairs(&form_encode(&pairs)), expected);
    }

    #[test]
    fn broken_escapes_are_left_out() {
        assert_eq!(form_pairs("a=%zz&b=%2&c=%ff&d=+1"), [("d".to_owned(), " 1".to_owned())]);
    }
}
