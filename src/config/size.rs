//! Byte sizes as people write them: `16MiB`, `1MB`, `65536`.

/// Longest suffixes first, so that `KiB` is not taken for a `B`.
const UNITS: [(&str, u64); 7] = [
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];

/// The number of bytes, or `None` if `text` is not a whole number with a known unit or is too large.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(suffix, bytes)| text.strip_suffix(suffix).map(|digits| (digits, *bytes)))
        .unwrap_or((&text, 1));
    let digits = digits.trim_end();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// With the largest unit that divides `bytes`; [`parse`] reads it back.
pub(super) fn written(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_and_perhaps_a_unit() {
        assert_eq!(parse("16MiB"), Some(16 << 20));
        assert_eq!(parse("1 MB"), Some(1_000_000));
        assert_eq!(parse("2kB"), Some(2_000));
        assert_eq!(parse("65536"), Some(65_536));
        for wrong in ["", "MiB", "1.5MiB", "-1", "+1", "1 2", "12 parsecs", "99999999999GiB"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_written_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1025, 1 << 20, 16 << 20, 1 << 30, 1_000_000] {
            assert_eq!(parse(&written(bytes)), Some(bytes));
        }
        assert_eq!(written(16 << 20), "16MiB");
    }
}
