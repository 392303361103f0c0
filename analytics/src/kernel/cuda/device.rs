//! Device: the driver, through `cudarc`, found when it is asked for.
//!
//! The driver's library panics where one expects an error: when it is missing, or lacks a symbol. So its presence is
//! asked first, and the first calls are made where a panic is caught.
//!
//! ```text
//!   pinned │ piece 1 │ ─copy stream─▶ device memory ─event─▶ compute stream: launch
//!          │ piece 2 │               one piece is filled while the other one is on its way
//! ```
//!
//! **Invariant.** One thread makes and uses it. A kernel is compiled once a source; a launch waits for the words
//! written before it.

use super::Device;
use cudarc::{
    driver::{
        CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, DevicePtr as _, LaunchConfig, PinnedHostSlice,
        PushKernelArg as _, sys,
    },
    nvrtc::{CompileOptions, compile_ptx_with_opts},
};
use std::{collections::BTreeMap, panic::catch_unwind, sync::Arc};

/// Words of one pinned piece: 4 MiB.
const PIECE_WORDS: usize = 512 << 10;

/// Threads of a block; the sources are written for it.
const THREADS: u32 = 256;

/// Blocks a multiprocessor.
const BLOCKS_EACH: u32 = 4;

/// Kernels that are kept.
const KERNELS_MAX: usize = 256;

/// A device and its driver.
pub struct Driver {
    context: Arc<CudaContext>,
    compute: Arc<CudaStream>,
    copy: Arc<CudaStream>,
    pinned: [PinnedHostSlice<u64>; 2],
    busy: [Option<CudaEvent>; 2],
    next_piece: usize,
    memory: BTreeMap<u64, CudaSlice<u64>>,
    kernels: BTreeMap<String, CudaFunction>,
    arch: &'static str,
    blocks: u32,
    words_max: u64,
}

impl Driver {
    pub fn open() -> Result<Driver, String> {
        #[expect(unsafe_code, reason = "sound: it tries to open a library by its name and does nothing else")]
        let is_there = unsafe { sys::is_culib_present() };
        if !is_there {
            return Err("no NVIDIA driver on this machine (libcuda.so.1 is not there)".to_owned());
        }
        #[expect(unsafe_code, reason = "sound: it tries to open a library by its name and does nothing else")]
        let has_compiler = unsafe { cudarc::nvrtc::sys::is_culib_present() };
        if !has_compiler {
            return Err("no NVRTC on this machine (libnvrtc.so is not there): kernels cannot be compiled".to_owned());
        }
        catch_unwind(Driver::open_there).map_err(|_| "the NVIDIA driver is not one this program knows".to_owned())?
    }

    fn open_there() -> Result<Driver, String> {
        if CudaContext::device_count().map_err(text)? == 0 {
            return Err("the NVIDIA driver finds no device".to_owned());
        }
        let context = CudaContext::new(0).map_err(text)?;
        #[expect(
            unsafe_code,
            reason = "sound: one thread uses the context, and every launch waits for the copies it needs by an event of \
                      ours"
        )]
        unsafe {
            context.disable_event_tracking();
        }
        context.set_blocking_synchronize().map_err(text)?;
        let arch = match context.compute_capability().map_err(text)? {
            (8, 0) => "compute_80",
            (8, 6) => "compute_86",
            (8, 9) => "compute_89",
            (9, 0) => "compute_90",
            (10, _) => "compute_100",
            (major, minor) if (major, minor) < (8, 0) => {
                return Err(format!("the device is of compute capability {major}.{minor}, 8.0 is needed"));
            }
            _ => "compute_90",
        };
        let processors = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let processors = u32::try_from(processors.map_err(text)?).unwrap_or(1);
        let (free, _) = context.mem_get_info().map_err(text)?;
        let (compute, copy) = (context.new_stream().map_err(text)?, context.new_stream().map_err(text)?);
        let pinned = [pinned(&context)?, pinned(&context)?];
        Ok(Driver {
            compute,
            copy,
            pinned,
            busy: [None, None],
            next_piece: 0,
            memory: BTreeMap::new(),
            kernels: BTreeMap::new(),
            arch,
            blocks: processors * BLOCKS_EACH,
            // A fifth is left to the driver, to others, and to what a query needs beside its columns.
            words_max: free as u64 / 8 / 5 * 4,
            context,
        })
    }

    fn kernel(&mut self, source: &str) -> Result<CudaFunction, String> {
        if let Some(kernel) = self.kernels.get(source) {
            return Ok(kernel.clone());
        }
        let options = CompileOptions { arch: Some(self.arch), options: options(), ..CompileOptions::default() };
        let ptx = compile_ptx_with_opts(source, options).map_err(|error| format!("compiling a kernel: {error:?}"))?;
        let kernel = self.context.load_module(ptx).and_then(|module| module.load_function("scan")).map_err(text)?;
        if self.kernels.len() >= KERNELS_MAX {
            self.kernels.clear();
        }
        self.kernels.insert(source.to_owned(), kernel.clone());
        Ok(kernel)
    }
}

/// What every kernel is compiled with: no fused multiply-add, so that f64 round as they do on a processor.
pub fn options() -> Vec<String> {
    vec!["--fmad=false".to_owned(), "--std=c++17".to_owned()]
}

fn pinned(context: &Arc<CudaContext>) -> Result<PinnedHostSlice<u64>, String> {
    #[expect(unsafe_code, reason = "sound: words of any content are words, and a piece is written before it is copied")]
    unsafe { context.alloc_pinned(PIECE_WORDS) }.map_err(text)
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

impl Device for Driver {
    fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "a device without a name".to_owned())
    }

    fn words_max(&self) -> u64 {
        self.words_max
    }

    fn allocate(&mut self, words: usize) -> Result<u64, String> {
        #[expect(
            unsafe_code,
            reason = "sound: words of any content are words, and they are written before they are read"
        )]
        let room = unsafe { self.copy.alloc::<u64>(words) }.map_err(text)?;
        let address = room.device_ptr(&self.copy).0;
        self.memory.insert(address, room);
        Ok(address)
    }

    fn write(&mut self, address: u64, words: &[u64]) -> Result<(), String> {
        let room = self.memory.get_mut(&address).ok_or("no such room")?;
        let (pieces, rest) = words.as_chunks::<PIECE_WORDS>();
        for (index, piece) in pieces.iter().enumerate() {
            let turn = self.next_piece;
            self.next_piece = 1 - turn;
            if let Some(on_its_way) = self.busy[turn].take() {
                on_its_way.synchronize().map_err(text)?;
            }
            let pinned = &mut self.pinned[turn];
            pinned.as_mut_slice().map_err(text)?.copy_from_slice(piece);
            let mut target = room.slice_mut(index * PIECE_WORDS..(index + 1) * PIECE_WORDS);
            self.copy.memcpy_htod(&*pinned, &mut target).map_err(text)?;
            self.busy[turn] = Some(self.copy.record_event(None).map_err(text)?);
        }
        if !rest.is_empty() {
            let mut target = room.slice_mut(words.len() - rest.len()..words.len());
            self.copy.memcpy_htod(rest, &mut target).map_err(text)?;
        }
        Ok(())
    }

    fn launch(&mut self, source: &str, table: u64, chunks: u64, out: u64, error: u64) -> Result<(), String> {
        let kernel = self.kernel(source)?;
        self.compute.join(&self.copy).map_err(text)?;
        let config = LaunchConfig { grid_dim: (self.blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        let mut arguments = self.compute.launch_builder(&kernel);
        arguments.arg(&table).arg(&chunks).arg(&out).arg(&error);
        #[expect(
            unsafe_code,
            reason = "sound: the four arguments are those of `scan`, the addresses are rooms of this device that live until \
                      the query is over, and the table says how many rows each one holds"
        )]
        unsafe { arguments.launch(config) }.map_err(text)?;
        Ok(())
    }

    fn read(&mut self, address: u64, words: usize) -> Result<Vec<u64>, String> {
        self.compute.synchronize().map_err(text)?;
        let room = self.memory.get(&address).ok_or("no such room")?;
        let mut out = self.compute.clone_dtoh(room).map_err(text)?;
        self.compute.synchronize().map_err(text)?;
        self.context.check_err().map_err(text)?;
        out.truncate(words);
        Ok(out)
    }

    fn free(&mut self, address: u64) {
        // A launch may still read it: the room goes when the device is done.
        let _it_is_lost_then = self.compute.synchronize();
        self.memory.remove(&address);
    }
}
