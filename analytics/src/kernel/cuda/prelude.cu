// What every scan kernel begins with. Compiled by NVRTC for a device; by a C++ compiler, with KV_HOST, for a processor, where a
// block is one thread: the same arithmetic, so that it can be checked without a device.
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;

#ifdef KV_HOST
#include <cmath>
#include <cstring>
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads, blocks)
static u32 kv_block, kv_blocks;
#define KV_THREAD 0u
#define KV_THREADS 1u
#define KV_LANES 1u
#define KV_BLOCK kv_block
#define KV_BLOCKS kv_blocks
#define KV_SYNC()
static inline u64 kv_add(u64* at, u64 more) { u64 was = *at; *at += more; return was; }
static inline void kv_min(u64* at, i64 other) { if (other < (i64)*at) *at = (u64)other; }
static inline void kv_max(u64* at, i64 other) { if (other > (i64)*at) *at = (u64)other; }
static inline double kv_f64(u64 bits) { double number; std::memcpy(&number, &bits, 8); return number; }
static inline u64 kv_bits(double number) { u64 bits; std::memcpy(&bits, &number, 8); return bits; }
static inline i64 kv_round(double number) { return std::llrint(number); }
#else
#define KV_THREAD threadIdx.x
#define KV_THREADS 256u
#define KV_LANES 32u
#define KV_BLOCK blockIdx.x
#define KV_BLOCKS gridDim.x
#define KV_SYNC() __syncthreads()
static __device__ __forceinline__ u64 kv_add(u64* at, u64 more) { return atomicAdd(at, more); }
static __device__ __forceinline__ void kv_min(u64* at, i64 other) { atomicMin((i64*)at, other); }
static __device__ __forceinline__ void kv_max(u64* at, i64 other) { atomicMax((i64*)at, other); }
static __device__ __forceinline__ double kv_f64(u64 bits) { return __longlong_as_double((i64)bits); }
static __device__ __forceinline__ u64 kv_bits(double number) { return (u64)__double_as_longlong(number); }
static __device__ __forceinline__ i64 kv_round(double number) { return __double2ll_rn(number); }
#endif

#define KV_SLICE 8192u
#define KV_ADD 0
#define KV_MIN 1
#define KV_MAX 2

struct __attribute__((aligned(16))) kv_16 { u32 x[4]; };
struct __attribute__((aligned(8))) kv_8 { u32 x[2]; };

// KV_ROWS numbers of BITS bits, from a row that is a multiple of KV_ROWS (1, 2 or 4): loads of 16 bytes, or one where less
// holds them.
template <int BITS>
static __device__ __forceinline__ void kv_unpack(const u64* words, u64 row, u64* out) {
    const char* bytes = (const char*)words + row * BITS / 8;
    if (BITS == 64) {
#if KV_ROWS == 1u
        out[0] = *(const u64*)bytes;
#else
#pragma unroll
        for (u32 i = 0; i < KV_ROWS; i += 2) {
            kv_16 a = *(const kv_16*)(bytes + i * 8);
            out[i] = a.x[0] | (u64)a.x[1] << 32;
            out[i + 1] = a.x[2] | (u64)a.x[3] << 32;
        }
#endif
    } else if (BITS == 32) {
#if KV_ROWS == 4u
        kv_16 a = *(const kv_16*)bytes;
#elif KV_ROWS == 1u
        struct { u32 x[1]; } a = {{*(const u32*)bytes}};
#else
        kv_8 a = *(const kv_8*)bytes;
#endif
        for (u32 i = 0; i < KV_ROWS; i++) out[i] = a.x[i];
    } else if (BITS == 0) {
        for (u32 i = 0; i < KV_ROWS; i++) out[i] = 0;
    } else {
        // At most 64 bits, within one word: narrow loads, and shifts that are known.
        u64 word;
        if (BITS * KV_ROWS == 64) word = *(const u64*)bytes;
        else if (BITS * KV_ROWS == 32) word = *(const u32*)bytes;
        else if (BITS * KV_ROWS == 16) word = *(const unsigned short*)bytes;
        else word = words[row * BITS / 64] >> (row * BITS % 64);
        for (u32 i = 0; i < KV_ROWS; i++) out[i] = (word >> (i * (BITS % 64))) & ((1ull << (BITS % 64)) - 1ull);
    }
}

// KV_ROWS bits of a selection.
static __device__ __forceinline__ u32 kv_marks(u64 words, u64 row) {
    return (u32)(((const u64*)words)[row / 64] >> (row % 64)) & ((1u << KV_ROWS) - 1u);
}

// A whole number that is ordered as f64 are: zeros equal, NaN above everything.
static __device__ __forceinline__ i64 kv_ordered(u64 bits) {
    double number = kv_f64(bits);
    if (number != number) return 0x7FF8000000000000ll;
    i64 whole = (i64)kv_bits(number + 0.0);
    return whole ^ (i64)((u64)(whole >> 63) >> 1);
}

static __device__ __forceinline__ void kv_into(int op, u64* at, u64 value) {
    if (op == KV_ADD) { if (value) kv_add(at, value); }
    else if (op == KV_MIN) kv_min(at, (i64)value);
    else kv_max(at, (i64)value);
}

static __device__ __forceinline__ u64 kv_join(int op, u64 one, u64 other) {
    if (op == KV_ADD) return one + other;
    if (op == KV_MIN) return (i64)other < (i64)one ? other : one;
    return (i64)other > (i64)one ? other : one;
}

static __device__ __forceinline__ bool kv_add_over(i64 a, i64 b, i64* r) {
    *r = (i64)((u64)a + (u64)b);
    return ((a ^ *r) & (b ^ *r)) < 0;
}
static __device__ __forceinline__ bool kv_sub_over(i64 a, i64 b, i64* r) {
    *r = (i64)((u64)a - (u64)b);
    return ((a ^ b) & (a ^ *r)) < 0;
}
static __device__ __forceinline__ bool kv_mul_over(i64 a, i64 b, i64* r) {
    *r = (i64)((u64)a * (u64)b);
#ifdef KV_HOST
    i64 high = (i64)(((__int128)a * b) >> 64);
#else
    i64 high = __mul64hi(a, b);
#endif
    return high != (*r >> 63);
}
