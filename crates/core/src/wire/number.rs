//! Doubles as ECMAScript writes them, which RFC 8785 asks for.

/// A finite double as ECMAScript's `Number::toString` writes it (ECMA-262 §6.1.6.1.20).
pub(super) fn ecmascript(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = shortest(number);
    let (sign, rest) = match scientific.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", scientific.as_str()),
    };
    let (mantissa, exponent) = rest.split_once('e').unwrap_or((rest, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or_default();
    // The value is 0.digits × 10^point.
    let point = exponent + 1;
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    match point {
        1..=21 if length <= point => format!("{sign}{digits}{}", zeros(point - length)),
        1..=21 => {
            let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or_default());
            format!("{sign}{whole}.{part}")
        }
        -5..=0 => format!("{sign}0.{}{digits}", zeros(-point)),
        _ => {
            let (first, part) = digits.split_at(1);
            let dot = if part.is_empty() { "" } else { "." };
            format!("{sign}{first}{dot}{part}e{exponent:+}")
        }
    }
}

/// The shortest digits that read back as `number`, as `d.ddde-7`; of two equally near, the even
/// one. Rust's own shortest form takes the odd one on such a tie, which only 16 digits and more
/// can show.
fn shortest(number: f64) -> String {
    let odd = format!("{number:e}");
    let places = odd.split_once('e').map_or(0, |(mantissa, _)| mantissa.len().saturating_sub(2));
    if places < 15 {
        return odd;
    }
    let places = if number < 0.0 { places - 1 } else { places };
    let even = format!("{number:.places$e}");
    if even.parse() == Ok(number) { even } else { odd }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_are_laid_out_as_ecmascript_does() {
        // RFC 8785 appendix B.
        let table: [(u64, &str); 25] = [
            (0x0000000000000000, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x8000000000000001, "-5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0xffefffffffffffff, "-1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0xc340000000000000, "-9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x44b52d02c7e14af6, "1e+23"),
            (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
            (0x444b1ae4d6e2ef4e, "999999999999999700000"),
            (0x444b1ae4d6e2ef4f, "999999999999999900000"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x41b3de4355555553, "333333333.3333332"),
            (0x41b3de4355555554, "333333333.33333325"),
            (0x41b3de4355555555, "333333333.3333333"),
            (0x41b3de4355555556, "333333333.3333334"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
            (0x43143ff3c1cb0959, "1424953923781206.2"),
            (0x3ff8000000000000, "1.5"),
        ];
        for (bits, text) in table {
            assert_eq!(ecmascript(f64::from_bits(bits)), text);
        }
    }

    proptest! {
        #[test]
        fn doubles_read_back(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            if number.is_finite() {
                prop_assert!(ecmascript(number).parse::<f64>().unwrap() == number);
            }
        }
    }
}
