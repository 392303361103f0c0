//! What people type: times, levels, versions, values.

use anyhow::Context as _;
use bytes::Bytes;
use kvorum_client::{ReadLevel, Stamp, Version};
use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
    time::Duration,
};

/// `500ms`, `30s`, `5m`, `12h`, `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a time is a whole number and a unit: 500ms, 30s, 5m, 12h, 7d".to_owned()),
    };
    let ms = text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match ms {
        Some(0) => Err("a time of 0 is never enough".to_owned()),
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err("a time is a whole number and a unit: 500ms, 30s, 5m, 12h, 7d".to_owned()),
    }
}

/// The number of a node.
pub fn node(text: &str) -> Result<u64, String> {
    number(text).ok_or_else(|| "a node is named by its number, 1 or more: kvctl node list".to_owned())
}

/// The number of a shard; 0 is the metadata.
pub fn shard(text: &str) -> Result<u64, String> {
    let shard = if text == "0" { Some(0) } else { number(text) };
    shard.ok_or_else(|| "a shard is named by its number, 0 for the metadata: kvctl shard list".to_owned())
}

/// The number of an operator.
pub fn operator(text: &str) -> Result<u64, String> {
    number(text).ok_or_else(|| "an operator is named by its number, 1 or more: kvctl operator list".to_owned())
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}

/// A read level, as receipts print it; `bounded` also as `bounded:500ms`.
pub fn level(text: &str) -> Result<ReadLevel, String> {
    if let Some(bound) = text.strip_prefix("bounded") {
        let inside = bound.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let bound = inside.or_else(|| bound.strip_prefix([':', '=']));
        return match bound.map(duration) {
            Some(Ok(bound)) => Ok(ReadLevel::Bounded(bound)),
            Some(Err(problem)) => Err(problem),
            None => Err("bounded needs its bound: bounded:500ms".to_owned()),
        };
    }
    let levels = [
        ReadLevel::Linearizable,
        ReadLevel::Session,
        ReadLevel::Local,
        ReadLevel::One,
        ReadLevel::Quorum,
        ReadLevel::All,
    ];
    levels.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
        "levels are linearizable, session, bounded:<time>, local (cp); session, bounded:<time>, one, quorum, all (ap)"
            .to_owned()
    })
}

/// `64KiB`, `1MiB`, or plain bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| text[..digits].parse::<u64>().ok()?.checked_mul(unit));
    match bytes {
        Some(0) => Err("a size of 0 is never enough".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("a size is a whole number and a unit: 512B, 64KiB, 1MiB".to_owned()),
    }
}

/// Bytes as a person reads them.
pub fn bytes(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// A version, as receipts print it: stamp-node-start.
pub fn version(text: &str) -> Result<Version, String> {
    let parts: Vec<u64> = text.split('-').map_while(|part| part.parse().ok()).collect();
    let [stamp, node, start] = parts[..] else {
        return Err("a version is <stamp>-<node>-<start>, as printed".to_owned());
    };
    let mut version = Version { stamp: Stamp(stamp), ..Version::default() };
    version.actor.node.0 = node;
    version.actor.start.0 = start;
    if version.to_string() == text { Ok(version) } else { Err("a version is <stamp>-<node>-<start>".to_owned()) }
}

/// A key from the command line, byte for byte.
pub fn key(text: OsString) -> Vec<u8> {
    text.into_vec()
}

/// A value from the command line: itself, stdin (`-`), or a file (`@path`).
pub fn value(text: &OsStr) -> anyhow::Result<Bytes> {
    match text.as_bytes() {
        b"-" => {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut bytes).context("cannot read stdin")?;
            Ok(bytes.into())
        }
        [b'@', b'@', ..] => Ok(Bytes::copy_from_slice(&text.as_bytes()[1..])),
        [b'@', path @ ..] => {
            let path = Path::new(OsStr::from_bytes(path));
            Ok(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?.into())
        }
        bytes => Ok(Bytes::copy_from_slice(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_client::LogPosition;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_said_in_the_largest_unit_that_fits() {
        let said = [0, 1_023, 1_024, 1_536, 1 << 20, (1 << 30) + (1 << 29), 3 << 40].map(super::bytes);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.5 GiB", "3.0 TiB"]);
    }

    #[test]
    fn what_has_a_number_is_named_by_it() {
        assert_eq!((node("3"), shard("0"), operator("18446744073709551615")), (Ok(3), Ok(0), Ok(u64::MAX)));
        for wrong in ["", "0", "zwei", "-1", "1.5", "18446744073709551616"] {
            assert!(node(wrong).unwrap_err().contains("kvctl node list"), "{wrong}");
            assert!(operator(wrong).unwrap_err().contains("kvctl operator list"), "{wrong}");
        }
        assert!(shard("orders").unwrap_err().contains("kvctl shard list"));
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "5", "s", "-5s", "1.5s", "0s", "99999999999999999999s", "18446744073709551615d", "5 s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_have_a_binary_unit() {
        assert_eq!((size("512"), size("64KiB"), size("1MiB")), (Ok(512), Ok(64 << 10), Ok(1 << 20)));
        for bad in ["", "MiB", "5XB", "1MB", "0B", "-1", "18446744073709551615KiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn levels_are_read_as_receipts_print_them() {
        for printed in ["linearizable", "session", "bounded(500ms)", "local", "one", "quorum", "all"] {
            assert_eq!(level(printed).unwrap().to_string(), printed);
        }
        assert_eq!(level("bounded:2s"), Ok(ReadLevel::Bounded(Duration::from_secs(2))));
        for bad in ["", "strong", "bounded", "bounded()", "bounded(5)"] {
            assert!(level(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_is_itself_or_a_file() {
        assert_eq!(value(OsStr::new("plain")).unwrap(), "plain");
        assert_eq!(value(OsStr::new("@@at")).unwrap(), "@at");
        let error = value(OsStr::new("@/nowhere/at/all")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/at/all");
    }

    proptest! {
        #[test]
        fn a_version_reads_what_it_prints(stamp: u64, node: u64, start: u64) {
            let text = format!("{stamp}-{node}-{start}");
            prop_assert_eq!(version(&text).unwrap().to_string(), text);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".*") {
            let _ = (duration(&text), level(&text), version(&text), size(&text));
        }
    }

    /// Whatever is read says the same when it is written down and read again.
    #[test]
    fn fuzz_any_text_is_refused_or_read_as_what_it_says() {
        let pieces = [
            "0",
            "1",
            "5",
            "9",
            "18446744073709551615",
            "ms",
            "s",
            "m",
            "h",
            "d",
            "B",
            "KiB",
            "GiB",
            "-",
            "+",
            " ",
            ".",
            "bounded",
            "(",
            ")",
            ":",
            "=",
            "quorum",
            "session",
            "\u{e9}",
            "@",
            "@@",
            "\u{0}",
        ];
        bolero::check!().with_iterations(4_000).with_max_len(12).for_each(|input: &[u8]| {
            for text in crate::typed::texts(&pieces, input) {
                if let Ok(time) = duration(&text) {
                    assert_eq!(duration(&format!("{}ms", time.as_millis())), Ok(time), "{text:?}");
                }
                if let Ok(bytes) = size(&text) {
                    assert_eq!(size(&format!("{bytes}B")), Ok(bytes), "{text:?}");
                }
                if let Ok(read) = level(&text) {
                    assert_eq!(level(&read.to_string()), Ok(read), "{text:?}");
                }
                if let Ok(read) = version(&text) {
                    assert_eq!(read.to_string(), text);
                }
                assert_eq!(key(OsString::from(&text)), text.as_bytes());
                // A name of a file is opened, stdin is read: neither is for this test.
                let is_itself = text != "-" && (!text.starts_with('@') || text.starts_with("@@"));
                if is_itself {
                    let without = if text.starts_with("@@") { &text[1..] } else { &text };
                    assert_eq!(value(OsStr::new(&text)).unwrap(), without.as_bytes());
                }
            }
        });
    }

    #[test]
    fn a_position_is_not_a_version() {
        assert!(version(&LogPosition { term: 1, index: 2 }.to_string()).is_err());
        assert!(version("1-2-3-4").is_err());
        assert!(version("01-2-3").is_err());
    }
}
