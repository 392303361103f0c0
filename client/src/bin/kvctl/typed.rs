//! What people might type, from random bytes: for fuzz targets.
//!
//! Random bytes hardly ever are a time or a line of JSON. So an input is read twice: as text, and as a row of pieces,
//! one a byte, of which such text is made.
//!
//! **Invariant.** The input alone decides.
//!
//! **Deliberately absent.** Chance.

/// The input as it is, and as a row of pieces.
pub fn texts(pieces: &[&str], input: &[u8]) -> [String; 2] {
    let row = input.iter().map(|byte| pieces[usize::from(*byte) % pieces.len()]).collect();
    [String::from_utf8_lossy(input).into_owned(), row]
}

/// A line of text with some of its bytes others: three bytes a deed, where and what.
pub fn miswritten(line: &str, input: &[u8]) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    for deed in input.chunks_exact(3) {
        let at = usize::from(deed[0]) % (bytes.len() + 1);
        match deed[1] % 4 {
            0 => bytes.insert(at, deed[2]),
            1 => bytes.truncate(at.max(1)),
            _ if at == bytes.len() => bytes.push(deed[2]),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] = deed[2],
        }
    }
    bytes
}

#[test]
fn the_input_decides() {
    assert_eq!(texts(&["5", "ms"], &[2, 1]), ["\u{2}\u{1}".to_owned(), "5ms".to_owned()]);
    assert_eq!(miswritten("abc", &[]), b"abc");
    assert_eq!(miswritten("abc", &[1, 0, b'x', 0, 3, b'y', 4, 2, b'!', 2, 1, 0]), b"yx");
}
