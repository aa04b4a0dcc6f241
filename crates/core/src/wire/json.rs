//! JSON text: the guard every outside body passes, and the canonical form digests are taken over.
//!
//! Canonical form is RFC 8785 with one difference: an integer literal keeps its decimal text
//! whatever its size, since rounding it to a double would give two calls one digest.
//!
//! Does not build a tree, and does not recurse: depth costs a frame on a vector.
//!
//! INVARIANT: two texts with the same canonical form have, after unescaping, the same members,
//! strings, literals and integers, and decimals that are the same double.

use super::number::ecmascript;
use std::{cmp::Ordering, fmt, ops::Range};

/// What a text may cost us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest text, in bytes.
    pub max_bytes: usize,
    /// Deepest nesting of arrays and objects; a scalar has depth 0, `[]` has depth 1.
    pub max_depth: usize,
}

impl Limits {
    /// 1 MiB, 64 levels: for request bodies where the operator configured nothing else.
    pub const REQUEST: Self = Self { max_bytes: 1 << 20, max_depth: 64 };
    /// 16 KiB, 16 levels: for JSON that travels inside a header or a proof.
    pub const PROOF: Self = Self { max_bytes: 16 << 10, max_depth: 16 };
}

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Longer than the limit.
    TooLarge,
    /// Nested deeper than the limit.
    TooDeep,
    /// An object has one key twice, compared after unescaping.
    DuplicateKey,
    /// Not JSON (RFC 8259), or bytes after the value.
    Syntax {
        /// Bytes before the first that does not fit.
        offset: usize,
    },
    /// Not UTF-8, or an escape that names half of a surrogate pair.
    BadUtf8,
    /// A number beyond the range of a double.
    BadNumber,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the JSON text is too large"),
            Self::TooDeep => f.write_str("the JSON text is nested too deeply"),
            Self::DuplicateKey => f.write_str("an object has the same key twice"),
            Self::Syntax { offset } => write!(f, "not JSON at byte {offset}"),
            Self::BadUtf8 => f.write_str("the JSON text is not valid Unicode"),
            Self::BadNumber => f.write_str("a number is out of range"),
        }
    }
}

impl std::error::Error for JsonError {}

/// The canonical form of one JSON text (RFC 8785, but see the module): UTF-8 bytes without white
/// space, keys in UTF-16 order, decimals as ECMAScript writes them.
///
/// # Errors
/// See [`JsonError`]; the text is refused whole.
pub fn canonical(text: &[u8], limits: &Limits) -> Result<Vec<u8>, JsonError> {
    walk(text, limits, true)
}

/// Refuses what [`canonical`] refuses, and keeps nothing.
///
/// # Errors
/// See [`JsonError`].
pub fn check(text: &[u8], limits: &Limits) -> Result<(), JsonError> {
    walk(text, limits, false).map(drop)
}

/// The JSON string literal of a text, quotes included, escaped as RFC 8785 says.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// The most bytes that a text takes between the quotes of its literal.
#[must_use]
pub fn escaped_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        0..=0x1f => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// Appends the JSON string literal of a text: what lies between two escapes is copied whole.
pub(crate) fn push_quoted(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.push(b'"');
    loop {
        let (run, from) = rest.split_at(plain(rest));
        out.extend_from_slice(run);
        let Some((byte, after)) = from.split_first() else { break };
        push_escaped(out, char::from(*byte));
        rest = after;
    }
    out.push(b'"');
}

/// How many bytes at the start of a text stand for themselves in a JSON string: eight are looked
/// at in one step, since most texts have long runs of them.
fn plain(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let has_below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & (ONES << 7) != 0;
    let has = |word: u64, byte: u8| has_below(word ^ (ONES * u64::from(byte)), 1);
    let (words, _) = text.as_chunks::<8>();
    let needs_escape = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        has_below(word, 0x20) || has(word, b'"') || has(word, b'\\')
    };
    let whole = 8 * words.iter().position(needs_escape).unwrap_or(words.len());
    let rest = slice(text, whole..text.len());
    let run = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    whole + run.unwrap_or(rest.len())
}

fn walk(text: &[u8], limits: &Limits, reorder: bool) -> Result<Vec<u8>, JsonError> {
    if text.len() > limits.max_bytes {
        return Err(JsonError::TooLarge);
    }
    let text = std::str::from_utf8(text).map_err(|_| JsonError::BadUtf8)?;
    let mut walker = Walker {
        text,
        at: 0,
        out: Vec::with_capacity(text.len()),
        frames: Vec::new(),
        members: Vec::new(),
        spare: Vec::new(),
        max_depth: limits.max_depth,
        reorder,
    };
    walker.document()?;
    Ok(walker.out)
}

/// An array or object that is still open.
#[derive(Clone, Copy)]
enum Frame {
    Array,
    Object {
        /// Where its first member starts in the output.
        start: usize,
        /// Where its members start on the stack of members.
        first: usize,
    },
}

/// A member of an open object, as offsets into the output.
#[derive(Clone, Copy)]
struct Span {
    /// The key's opening quote.
    start: usize,
    /// Past the key's closing quote.
    key_end: usize,
    /// Past the value.
    end: usize,
    /// The key's bytes compare as its UTF-16 code units do.
    plain: bool,
}

/// What follows a token.
enum Next {
    /// A value has ended.
    Ended,
    /// A value must start.
    Value,
}

struct Walker<'t> {
    text: &'t str,
    at: usize,
    out: Vec<u8>,
    frames: Vec<Frame>,
    members: Vec<Span>,
    spare: Vec<u8>,
    max_depth: usize,
    reorder: bool,
}

impl Walker<'_> {
    fn document(&mut self) -> Result<(), JsonError> {
        loop {
            if let Next::Value = self.value()? {
                continue;
            }
            while let Some(frame) = self.frames.last().copied() {
                match self.after_value(frame)? {
                    Next::Value => break,
                    Next::Ended => {}
                }
            }
            if self.frames.is_empty() {
                self.skip_space();
                return if self.peek().is_none() { Ok(()) } else { Err(self.syntax()) };
            }
        }
    }

    fn value(&mut self) -> Result<Next, JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => return self.open_object(),
            Some(b'[') => return self.open_array(),
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            _ => return Err(self.syntax()),
        }
        Ok(Next::Ended)
    }

    /// After a value inside `frame`: a comma and the next member, or the end of the frame.
    fn after_value(&mut self, frame: Frame) -> Result<Next, JsonError> {
        self.skip_space();
        match (frame, self.peek()) {
            (Frame::Array, Some(b',')) => self.copy(b','),
            (Frame::Array, Some(b']')) => {
                self.copy(b']');
                self.frames.pop();
                return Ok(Next::Ended);
            }
            (Frame::Object { .. }, Some(b',')) => {
                self.end_member();
                self.copy(b',');
                self.skip_space();
                self.key()?;
            }
            (Frame::Object { start, first }, Some(b'}')) => {
                self.end_member();
                self.close_object(start, first)?;
                self.copy(b'}');
                self.frames.pop();
                return Ok(Next::Ended);
            }
            (Frame::Array | Frame::Object { .. }, _) => return Err(self.syntax()),
        }
        Ok(Next::Value)
    }

    fn open_array(&mut self) -> Result<Next, JsonError> {
        self.push(Frame::Array)?;
        self.copy(b'[');
        self.skip_space();
        if self.peek() == Some(b']') {
            self.copy(b']');
            self.frames.pop();
            return Ok(Next::Ended);
        }
        Ok(Next::Value)
    }

    fn open_object(&mut self) -> Result<Next, JsonError> {
        self.push(Frame::Object { start: self.out.len() + 1, first: self.members.len() })?;
        self.copy(b'{');
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.copy(b'}');
            self.frames.pop();
            return Ok(Next::Ended);
        }
        self.key()?;
        Ok(Next::Value)
    }

    fn push(&mut self, frame: Frame) -> Result<(), JsonError> {
        if self.frames.len() >= self.max_depth {
            return Err(JsonError::TooDeep);
        }
        self.frames.push(frame);
        Ok(())
    }

    fn key(&mut self) -> Result<(), JsonError> {
        let start = self.out.len();
        if self.peek() != Some(b'"') {
            return Err(self.syntax());
        }
        self.string()?;
        let key_end = self.out.len();
        // Above U+DFFF the order of UTF-8 bytes and of UTF-16 units part; escapes hide the order.
        let plain = slice(&self.out, start..key_end).iter().all(|b| *b != b'\\' && *b < 0xee);
        self.members.push(Span { start, key_end, end: key_end, plain });
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.syntax());
        }
        self.copy(b':');
        Ok(())
    }

    fn end_member(&mut self) {
        let end = self.out.len();
        if let Some(member) = self.members.last_mut() {
            member.end = end;
        }
    }

    /// Refuses duplicate keys and puts the members of the object that ends here into key order.
    fn close_object(&mut self, start: usize, first: usize) -> Result<(), JsonError> {
        let Self { out, members, spare, .. } = self;
        let own = members.split_at_mut(first).1;
        if !own.is_sorted_by(|a, b| order(out, a, b) == Ordering::Less) {
            own.sort_unstable_by(|a, b| order(out, a, b));
            if own.is_sorted_by(|a, b| order(out, a, b) == Ordering::Less) {
                if self.reorder {
                    spare.clear();
                    for member in own.iter() {
                        spare.extend_from_slice(slice(out, member.start..member.end));
                        spare.push(b',');
                    }
                    spare.pop();
                    out.truncate(start);
                    out.extend_from_slice(spare);
                }
            } else {
                return Err(JsonError::DuplicateKey);
            }
        }
        members.truncate(first);
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.copy(b'"');
        loop {
            let rest = slice(self.text.as_bytes(), self.at..self.text.len());
            let run = plain(rest);
            self.out.extend_from_slice(slice(rest, 0..run));
            self.at += run;
            match self.peek() {
                Some(b'"') => {
                    self.copy(b'"');
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.syntax()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        let c = match self.peek() {
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            Some(b'b') => '\u{8}',
            Some(b't') => '\t',
            Some(b'n') => '\n',
            Some(b'f') => '\u{c}',
            Some(b'r') => '\r',
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            _ => return Err(self.syntax()),
        };
        self.at += 1;
        push_escaped(&mut self.out, c);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<(), JsonError> {
        let unit = self.hex4()?;
        let c = match char::from_u32(u32::from(unit)) {
            Some(c) => c,
            None => {
                if self.text.as_bytes().get(self.at..self.at + 2) != Some(b"\\u") {
                    return Err(JsonError::BadUtf8);
                }
                self.at += 2;
                let pair = [unit, self.hex4()?];
                match char::decode_utf16(pair).next() {
                    Some(Ok(c)) => c,
                    Some(Err(_)) | None => return Err(JsonError::BadUtf8),
                }
            }
        };
        push_escaped(&mut self.out, c);
        Ok(())
    }

    fn hex4(&mut self) -> Result<u16, JsonError> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = digits.and_then(|d| u16::from_str_radix(d, 16).ok());
        let unit = unit.ok_or_else(|| self.syntax())?;
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        let mut is_integer = true;
        if self.eat(b'.') {
            is_integer = false;
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            is_integer = false;
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        let literal = self.text.get(start..self.at).unwrap_or_default();
        match (is_integer, literal) {
            (true, "-0") => self.out.push(b'0'),
            (true, _) => self.out.extend_from_slice(literal.as_bytes()),
            (false, _) => {
                let number: f64 = literal.parse().map_err(|_| JsonError::BadNumber)?;
                if !number.is_finite() {
                    return Err(JsonError::BadNumber);
                }
                self.out.extend_from_slice(ecmascript(number).as_bytes());
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = slice(self.text.as_bytes(), self.at..self.text.len());
        match rest.iter().take_while(|b| b.is_ascii_digit()).count() {
            0 => Err(self.syntax()),
            run => {
                self.at += run;
                Ok(())
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), JsonError> {
        if self.text.get(self.at..self.at + word.len()) != Some(word) {
            return Err(self.syntax());
        }
        self.at += word.len();
        self.out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Moves one byte, known to be next, to the output.
    fn copy(&mut self, byte: u8) {
        self.out.push(byte);
        self.at += 1;
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn syntax(&self) -> JsonError {
        JsonError::Syntax { offset: self.at }
    }
}

/// `bytes[range]`; empty when out of range, which offsets into our own output never are.
fn slice(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

/// Order of two members' keys by UTF-16 code units (RFC 8785 §3.2.3).
fn order(out: &[u8], a: &Span, b: &Span) -> Ordering {
    let content = |s: &Span| s.start + 1..s.key_end.saturating_sub(1);
    let (a_key, b_key) = (slice(out, content(a)), slice(out, content(b)));
    if a.plain && b.plain {
        return a_key.cmp(b_key);
    }
    utf16_ranks(a_key).cmp(utf16_ranks(b_key))
}

/// The characters of an escaped key, each as a number that orders as its UTF-16 units do.
fn utf16_ranks(key: &[u8]) -> impl Iterator<Item = u32> {
    let key = std::str::from_utf8(key).unwrap_or_default();
    let mut chars = key.chars();
    std::iter::from_fn(move || {
        let c = match chars.next()? {
            '\\' => match chars.next()? {
                'b' => '\u{8}',
                't' => '\t',
                'n' => '\n',
                'f' => '\u{c}',
                'r' => '\r',
                'u' => {
                    // Only control characters stay escaped this way: `00` and two digits.
                    let digits: String = chars.by_ref().take(4).collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                }
                c => c,
            },
            c => c,
        };
        let rank = u32::from(c);
        // Units of a surrogate pair (D800–DFFF) sort below E000–FFFF.
        Some(if (0xe000..=0xffff).contains(&rank) { rank + 0x0011_0000 } else { rank })
    })
}

/// Appends a character as RFC 8785 §3.2.2.2 writes it inside a string.
fn push_escaped(out: &mut Vec<u8>, c: char) {
    let mut utf8 = [0; 4];
    let short = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '\0'..='\u{1f}' => {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
            return;
        }
        _ => c.encode_utf8(&mut utf8),
    };
    out.extend_from_slice(short.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const LIMITS: Limits = Limits::REQUEST;

    fn canon(text: &str) -> Result<String, JsonError> {
        canonical(text.as_bytes(), &LIMITS).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_example_of_rfc_8785() {
        let input = "{\n  \"numbers\": [333333333.33333329, 1E30, 4.50, 2e-3,\n  \
            0.000000000000000000000000001],\n  \"string\": \
            \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\",\n  \
            \"literals\": [null, true, false]\n}";
        let expected = "{\"literals\":[null,true,false],\
            \"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
            \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canon(input).as_deref(), Ok(expected));
    }

    #[test]
    fn keys_sort_by_utf16_units_whatever_their_escapes() {
        // RFC 8785 §3.2.3.
        let input =
            r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        let expected = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}";
        assert_eq!(canon(input).as_deref(), Ok(expected));
        assert_eq!(
            canon(r#"{"a!":1,"a":2,"a ":3,"":4}"#).unwrap(),
            r#"{"":4,"a":2,"a ":3,"a!":1}"#
        );
        assert_eq!(
            canon(r#"{"b":{"d":1,"c":[{"z":0,"y":0}]},"a":0}"#).unwrap(),
            r#"{"a":0,"b":{"c":[{"y":0,"z":0}],"d":1}}"#
        );
        assert_eq!(
            canon("{\"\\u001f\":1,\"\\t\":2,\"\\u0000\":3}").unwrap(),
            "{\"\\u0000\":3,\"\\t\":2,\"\\u001f\":1}"
        );
    }

    #[test]
    fn integers_keep_their_decimal_text() {
        for text in ["9007199254740993", "-9007199254740993", "123456789012345678901234567890"] {
            assert_eq!(canon(text).as_deref(), Ok(text));
        }
        assert_eq!(canon("-0").as_deref(), Ok("0"));
        assert_eq!(canon("-0.0").as_deref(), Ok("0"));
        assert_eq!(canon("1.0").as_deref(), Ok("1"));
        assert_eq!(canon("1e2").as_deref(), Ok("100"));
    }

    #[test]
    fn what_is_not_one_clean_value_is_refused() {
        let syntax = [
            "",
            " ",
            "{",
            "[",
            "]",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "{1:1}",
            "[1 2]",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "Infinity",
            "tru",
            "nulls",
            "\"",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u+123\"",
            "1 2",
            "{}{}",
            "{} x",
            "\u{feff}{}",
            "'a'",
            "[1}",
            "{\"a\":1]",
            "/**/1",
            "\u{a0}1",
        ];
        for text in syntax {
            assert!(matches!(canon(text), Err(JsonError::Syntax { .. })), "{text:?}");
        }
        assert_eq!(canon("[1,x]"), Err(JsonError::Syntax { offset: 3 }));
        for text in ["1e400", "-1e400", "[1.0e999999999999]"] {
            assert_eq!(canon(text), Err(JsonError::BadNumber), "{text}");
        }
        for text in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\u0041""#] {
            assert_eq!(canon(text), Err(JsonError::BadUtf8), "{text}");
        }
        assert_eq!(canonical(b"\"\xff\"", &LIMITS), Err(JsonError::BadUtf8));
        assert_eq!(canonical(b"\"\xed\xa0\x80\"", &LIMITS), Err(JsonError::BadUtf8));
    }

    #[test]
    fn one_key_twice_is_refused_however_it_is_written() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"[{"x":{"\t":1,"\u0009":2}}]"#,
            r#"{"😀":1,"b":2,"\ud83d\ude00":3}"#,
        ] {
            assert_eq!(canon(text), Err(JsonError::DuplicateKey), "{text}");
            assert_eq!(check(text.as_bytes(), &LIMITS), Err(JsonError::DuplicateKey));
        }
        assert!(canon(r#"{"a":{"a":{"a":1}},"A":2}"#).is_ok());
    }

    #[test]
    fn limits_hold_before_anything_is_spent() {
        let deep = "[".repeat(10_000);
        assert_eq!(canon(&deep), Err(JsonError::TooDeep));
        let unlimited = Limits { max_bytes: usize::MAX, max_depth: 100_000 };
        let balanced = format!("{deep}{}", "]".repeat(10_000));
        assert_eq!(canonical(balanced.as_bytes(), &unlimited).unwrap(), balanced.as_bytes());
        let two = Limits { max_bytes: 8, max_depth: 2 };
        assert!(check(b"[[1]]", &two).is_ok());
        assert_eq!(check(b"[[[]]]", &two), Err(JsonError::TooDeep));
        assert_eq!(check(b"[1,2,3,4]", &two), Err(JsonError::TooLarge));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let entries = prop::collection::vec((any::<String>(), inner.clone()), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Value::from),
                entries.prop_map(|e| Value::Object(e.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_form_is_stable_and_says_the_same(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let once = canon(&pretty).unwrap();
            prop_assert_eq!(canon(&once).unwrap(), once.clone());
            prop_assert_eq!(canon(&value.to_string()).unwrap(), once.clone());
            prop_assert!(check(pretty.as_bytes(), &LIMITS).is_ok());
            let back: Value = serde_json::from_str(&once).unwrap();
            prop_assert!(same(&back, &value), "{} {}", back, value);
        }

        #[test]
        fn quotes_read_back(text in any::<String>()) {
            let literal = quote(&text);
            let read: String = serde_json::from_str(&literal).unwrap();
            prop_assert_eq!(&read, &text);
            prop_assert_eq!(canon(&literal).unwrap(), literal);
        }

        #[test]
        fn runs_end_where_something_is_escaped(
            text in proptest::collection::vec(prop_oneof![any::<u8>(), 0x1f..=0x5du8], 0..64)
        ) {
            let first = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            prop_assert_eq!(plain(&text), first.unwrap_or(text.len()));
        }

        #[test]
        fn whatever_we_accept_the_reference_parser_accepts(
            text in r#"([\[\]{}:, \-+.0-9eE"\\tnu]|true|null|"a"|"\\u00e9"){0,24}"#
        ) {
            let ours = canon(&text);
            prop_assert_eq!(ours.is_ok(), check(text.as_bytes(), &LIMITS).is_ok());
            if ours.is_ok() {
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            } else if let Err(JsonError::Syntax { .. }) = ours {
                prop_assert!(serde_json::from_str::<Value>(&text).is_err());
            }
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = canonical(&bytes, &LIMITS);
        }
    }

    /// Equal up to the form of numbers, and the reference parser's last place.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => {
                // `serde_json` reads decimals to within one unit in the last place.
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                a.to_bits().abs_diff(b.to_bits()) <= 1 || a == b
            }
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
            }
            _ => a == b,
        }
    }
}
