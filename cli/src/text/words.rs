//! What a word is: an ASCII identifier of two bytes or more, `[A-Za-z_][A-Za-z0-9_]+`.

/// The words of a text, in order, repeated as often as they stand there.
///
/// A run of letters, digits and underscores is one word or none: `0x1f` holds no word `x1f`, and `n` alone is too short
/// to search for. Anything outside ASCII separates.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|run| run.len() >= 2 && !run.as_bytes()[0].is_ascii_digit())
}

/// A word's hash: FNV-1a over its bytes, then a finish that spreads it over the low bits, where buckets are chosen.
pub(crate) fn hash(word: &str) -> u64 {
    let folded =
        word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        words(text).collect()
    }

    #[test]
    fn identifiers_of_two_bytes_or_more() {
        assert_eq!(cut("fn main() { let x = my_var1; }"), ["fn", "main", "let", "my_var1"]);
        assert_eq!(cut("_ __ _a a"), ["__", "_a"]);
        assert_eq!(cut(""), [""; 0]);
    }

    #[test]
    fn a_run_that_begins_with_a_digit_is_no_word() {
        assert_eq!(cut("0x1f 12ab 3 u32 1_000usize"), ["u32"]);
    }

    #[test]
    fn anything_outside_ascii_separates() {
        assert_eq!(cut("grüße naïve→word 日本ab"), ["gr", "na", "ve", "word", "ab"]);
    }

    #[test]
    fn repeats_are_kept_and_case_matters() {
        assert_eq!(cut("Vec::vec(Vec)"), ["Vec", "vec", "Vec"]);
    }

    #[test]
    fn the_hash_spreads_over_the_low_bits() {
        let low: std::collections::HashSet<u64> = (0..1024).map(|n| hash(&format!("word{n}")) & 1023).collect();
        assert!(low.len() > 550, "{} of 1024 buckets hit", low.len());
    }
}
