//! What the chunk format promises: every layout comes back, a changed byte is refused by name, no bytes make it panic.

use super::*;
use crate::chunk::{Builder, builder::Cell};

fn whole_chunk() -> Chunk {
    let kinds = [Kind::I64, Kind::I64, Kind::I64, Kind::F64, Kind::Bool, Kind::Timestamp, Kind::Text];
    let mut builder = Builder::new(kinds);
    for row in 0..130_u64 {
        let cells = [
            Cell::Pattern(row * 3),
            Cell::Pattern(row / 100 * 1_000_000),
            Cell::Pattern(row % 2 * 1_000_000_007),
            Cell::Pattern((row as f64 / 7.0).to_bits()),
            if row % 5 == 0 { Cell::Missing } else { Cell::Pattern(row % 2) },
            Cell::Pattern(row.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            if row % 9 == 0 { Cell::Missing } else { Cell::Text(["a", "b", "grüß"][row as usize % 3]) },
        ];
        for (column, cell) in cells.into_iter().enumerate() {
            builder.push(column, cell);
        }
        builder.end_row();
    }
    builder.seal(3).without(17).unwrap()
}

fn schema() -> Schema {
    Schema::parse("a:i64,b:i64,c:i64,d:f64,e:bool,f:timestamp=key[2],g:text=bytes[0..9]").unwrap()
}

#[test]
fn every_layout_comes_back() {
    let chunk = whole_chunk();
    let tags: Vec<u8> = chunk
        .columns()
        .iter()
        .map(|column| match column.encoding() {
            Encoding::Words(_) => 0,
            Encoding::Packed { .. } => 1,
            Encoding::Distinct { .. } => 2,
            Encoding::Runs { .. } => 3,
            Encoding::Text { .. } => 4,
        })
        .collect();
    assert_eq!(tags, [1, 3, 2, 0, 1, 0, 4]);
    assert_eq!(decode_chunk(&encode_chunk(&chunk)).unwrap(), chunk);
    let mut file = Vec::new();
    write_chunks(&mut file, &schema(), &[Arc::new(chunk.clone()), Arc::new(chunk.clone())]).unwrap();
    let (read, chunks) = read_chunks(&file[..]).unwrap();
    assert_eq!((read, chunks.len()), (schema(), 2));
    assert_eq!(*chunks[1], chunk);
}

/// The bytes of version 1: if this changes, the version must.
#[test]
fn the_bytes_of_version_1_stay_what_they_are() {
    let bytes = encode_chunk(&whole_chunk());
    assert_eq!((bytes.len(), crc32fast::hash(&bytes)), FIXTURE);
}

const FIXTURE: (usize, u32) = (2_864, 1_829_758_302);

#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    let mut file = Vec::new();
    write_chunks(&mut file, &schema(), &[Arc::new(whole_chunk())]).unwrap();
    for at in 0..file.len() {
        let mut spoiled = file.clone();
        spoiled[at] ^= 1 << (at % 8);
        assert!(read_chunks(&spoiled[..]).is_err(), "byte {at} may change unnoticed");
    }
    let mut spoiled = file.clone();
    let middle = file.len() - 200;
    spoiled[middle] ^= 1;
    let error = read_chunks(&spoiled[..]).unwrap_err().to_string();
    assert!(error.starts_with("the checksum of chunk 3 does not match"), "{error}");
    for length in 0..file.len() {
        assert!(read_chunks(&file[..length]).is_err(), "{length} bytes pass for a whole file");
    }
}

#[test]
fn fuzz_any_bytes_are_refused_or_read_as_a_chunk_that_can_be_walked() {
    let sound = encode_chunk(&whole_chunk());
    bolero::check!().with_iterations(2_000).with_max_len(300).for_each(|input: &[u8]| {
        let _refused = read_chunks(input);
        // Spoil a sound chunk and make its checksum right again, so that the fields behind it are reached.
        let mut spoiled = sound[..sound.len() - 4].to_vec();
        for triple in input.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([triple[0], triple[1]])) % spoiled.len();
            spoiled[at] = triple[2];
        }
        spoiled.extend(crc32fast::hash(&spoiled).to_be_bytes());
        if let Ok(chunk) = decode_chunk(&spoiled) {
            assert_eq!(encode_chunk(&chunk), spoiled);
            for column in chunk.columns() {
                (0..chunk.rows()).for_each(|row| drop(column.get(row)));
                let mut patterns = vec![0; chunk.rows()];
                column.patterns(0, &mut patterns);
            }
        }
    });
}
