//! The device's kernels without a device: compiled by a C++ compiler for the processor they pass the suite, compiled by
//! NVRTC they fit the device.

use super::*;
use crate::{
    kernel::{cpu::groups::Keys, suite},
    query::Text,
    schema::Schema,
};
use layout::Signature;
use shape::Shape;
use source::Writer;
use std::{collections::BTreeMap, path::PathBuf, process::Command};

/// Poison: what memory holds before it is written.
const POISON: u64 = 0xDEAD_BEEF_DEAD_BEEF;

/// What a kernel may put aside, a thread.
const SPILLED_BYTES_MAX: u32 = 32;

/// Blocks of a launch.
const BLOCKS: u32 = 3;

/// A device that is the processor: sources go through a C++ compiler, a block is one thread.
struct Emulated {
    directory: tempfile::TempDir,
    memory: BTreeMap<u64, Vec<u128>>,
    kernels: BTreeMap<String, libloading::Library>,
}

impl Emulated {
    fn new() -> Emulated {
        let directory = tempfile::tempdir().expect("a place for what is compiled");
        Emulated { directory, memory: BTreeMap::new(), kernels: BTreeMap::new() }
    }

    fn compile(&mut self, source: &str) -> Result<(), String> {
        if self.kernels.contains_key(source) {
            return Ok(());
        }
        let place =
            |end: &str| -> PathBuf { self.directory.path().join(format!("kernel{}.{end}", self.kernels.len())) };
        std::fs::write(place("cpp"), source).map_err(|error| error.to_string())?;
        let flags = ["-DKV_HOST", "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-o"];
        let out = Command::new("c++").args(flags).arg(place("so")).arg(place("cpp")).output();
        let out = out.map_err(|error| error.to_string())?;
        assert!(out.status.success(), "{}\n{source}", String::from_utf8_lossy(&out.stderr));
        #[expect(unsafe_code, reason = "sound: a library we just wrote, without anything that runs when it is opened")]
        let library = unsafe { libloading::Library::new(place("so")) }.map_err(|error| error.to_string())?;
        self.kernels.insert(source.to_owned(), library);
        Ok(())
    }
}

impl Device for Emulated {
    fn name(&self) -> String {
        "the processor".to_owned()
    }

    fn words_max(&self) -> u64 {
        1 << 22
    }

    fn allocate(&mut self, words: usize) -> Result<u64, String> {
        // Of 16 bytes each, so that it is aligned as a device's memory is.
        let room = vec![u128::from(POISON) << 64 | u128::from(POISON); words.div_ceil(2)];
        let address = room.as_ptr() as u64;
        self.memory.insert(address, room);
        Ok(address)
    }

    fn write(&mut self, address: u64, words: &[u64]) -> Result<(), String> {
        let room: &mut [u64] = bytemuck::cast_slice_mut(self.memory.get_mut(&address).ok_or("no such room")?);
        room[..words.len()].copy_from_slice(words);
        Ok(())
    }

    fn launch(&mut self, source: &str, table: u64, chunks: u64, out: u64, error: u64) -> Result<(), String> {
        type Scan = extern "C" fn(u32, u64, u64, u64, u64);
        self.compile(source)?;
        #[expect(unsafe_code, reason = "sound: the function has this signature, and the addresses are rooms of ours")]
        let scan = unsafe { self.kernels[source].get::<Scan>(b"scan_host\0") }.map_err(|error| error.to_string())?;
        scan(BLOCKS, table, chunks, out, error);
        Ok(())
    }

    fn read(&mut self, address: u64, words: usize) -> Result<Vec<u64>, String> {
        let room: &[u64] = bytemuck::cast_slice(self.memory.get(&address).ok_or("no such room")?);
        Ok(room[..words].to_vec())
    }

    fn free(&mut self, address: u64) {
        self.memory.remove(&address);
    }
}

#[test]
fn the_kernels_pass_the_suite_compiled_for_the_processor() {
    if Command::new("c++").arg("--version").output().is_err() {
        println!("SKIPPED: there is no C++ compiler `c++` to stand in for the device");
        return;
    }
    let cuda = start(|| Ok(Box::new(Emulated::new()))).unwrap();
    suite::check_shapes(&cuda);
    suite::check_repeats(&cuda, &cuda);
}

#[test]
fn without_a_driver_it_says_so_and_does_not_panic() {
    match open() {
        Ok(cuda) => assert!(!cuda.device_name().is_empty()),
        Err(reason) => assert!(reason.contains("driver") || reason.contains("NVRTC"), "{reason}"),
    }
}

/// Sources of every rung of the ladder.
fn sources() -> Vec<(&'static str, String)> {
    let (schema, chunks): (Schema, _) = suite::chunks(1, &[3_000]);
    let questions = [
        ("filter and sum", "sum(y)", Some("byte < 40"), None),
        ("packed filter and sum", "sum(half)", Some("byte < 40"), None),
        ("min and max", "min(x), max(wide)", None, None),
        ("eleven groups", "count(), sum(y)", None, Some("name, flag")),
        ("hundreds of groups", "count(), sum(byte)", None, Some("byte, flag")),
        ("many groups", "sum(y)", None, Some("byte, place")),
        ("arithmetic", "sum(byte * half + 1), avg(sorted)", Some("x / byte > 1 and not name = 'JFK'"), None),
    ];
    let write = |(name, aggregates, filter, groups)| {
        let query = Query::parse(Text { aggregates, filter, groups }, &schema, &Limits::default()).unwrap();
        // What is not finite has no fixed point; the shape is what is of interest here.
        let sound: Vec<&Arc<Chunk>> = chunks.iter().collect();
        let shape = Shape::new(&query, &sound).unwrap();
        let (keys, columns) = (Keys::new(&query, sound.iter().copied()), query.columns());
        let signature = Signature::new(&chunks[0], &columns);
        let groups = if keys.is_whole() { None } else { keys.dense() };
        let key_columns = keys.dense_columns();
        let source = Writer::new(&query, &shape, (&columns, &signature), (&key_columns, groups)).write().unwrap();
        (name, source)
    };
    questions.into_iter().map(write).collect()
}

/// Registers, spilled bytes and shared memory, as the assembler reports them.
fn resources(log: &str) -> (u32, u32, u32) {
    let number = |before: &str| {
        let end = log.find(before)?;
        let digits = log[..end].trim_end().rsplit(|letter: char| !letter.is_ascii_digit()).next()?;
        digits.parse::<u32>().ok()
    };
    (number(" registers").unwrap_or(0), number(" bytes spill stores").unwrap_or(0), number(" bytes smem").unwrap_or(0))
}

/// Warps that a multiprocessor of compute capability 9.0 holds, of the 64 it could: by registers, given out in steps of
/// 8 a thread, and by 227 KiB of shared memory, 1 KiB of which each block takes itself.
fn occupancy(registers: u32, shared: u32) -> f64 {
    let by_registers = 65_536 / (registers.next_multiple_of(8).max(8) * 256);
    let by_shared = 227 * 1_024 / (shared + 1_024);
    f64::from(by_registers.min(by_shared).min(8) * 8) / 64.0
}

#[test]
fn every_kernel_compiles_for_devices_and_leaves_room_for_enough_warps() {
    #[expect(unsafe_code, reason = "sound: it tries to open a library by its name and does nothing else")]
    let has_compiler = unsafe { cudarc::nvrtc::sys::is_culib_present() };
    if !has_compiler {
        println!(
            "SKIPPED: no NVRTC here (pip install nvidia-cuda-nvrtc==13.0.88, and LD_LIBRARY_PATH to its directory with \
             libnvrtc.so.13)"
        );
        return;
    }
    for (name, source) in sources() {
        for arch in ["sm_80", "sm_90"] {
            let log = compile(&source, arch).unwrap_or_else(|log| panic!("{name} for {arch}:\n{log}\n{source}"));
            let (registers, spilled, shared) = resources(&log);
            let occupancy = occupancy(registers, shared);
            println!(
                "{name}, {arch}: {registers} registers, {shared} bytes shared, {spilled} put aside, occupancy {:.0} %",
                occupancy * 100.0
            );
            assert!(registers > 0, "{log}");
            // A few bytes of what is needed once a tile may be put aside; more only where arithmetic, not memory, is
            // what takes the time.
            let is_arithmetic = name == "arithmetic";
            assert!(is_arithmetic || spilled <= SPILLED_BYTES_MAX, "{name} for {arch}: {log}");
            assert!(occupancy >= 0.6, "{name} for {arch}: {registers} registers, {shared} bytes shared");
        }
    }
}

/// Compiles to machine code and gives the assembler's report.
fn compile(source: &str, arch: &str) -> Result<String, String> {
    use cudarc::nvrtc::{result, sys};
    let source = std::ffi::CString::new(source).expect("no source holds a zero");
    let program = result::create_program(&source, None).map_err(|error| format!("{error:?}"))?;
    let mut options = device::options();
    options.extend([format!("--gpu-architecture={arch}"), "--ptxas-options=-v".to_owned()]);
    let (outcome, log) = {
        #[expect(unsafe_code, reason = "sound: the program was just created and is destroyed once, below")]
        unsafe {
            let outcome = result::compile_program(program, &options);
            let log = result::get_program_log(program).map_err(|error| format!("{error:?}"))?;
            let mut size = 0;
            let code = sys::nvrtcGetCUBINSize(program, &raw mut size);
            assert!(outcome.is_err() || (code == sys::nvrtcResult::NVRTC_SUCCESS && size > 0), "there is machine code");
            result::destroy_program(program).map_err(|error| format!("{error:?}"))?;
            (outcome, log)
        }
    };
    let log: String = log.into_iter().take_while(|letter| *letter != 0).map(|letter| letter as u8 as char).collect();
    outcome.map(|()| log.clone()).map_err(|_| log)
}
