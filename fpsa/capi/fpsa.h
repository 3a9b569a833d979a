/* fpsa: block-sparse FP8 and INT8 attention over 3-D token grids, on CPUs. The C interface.
 *
 * A plan holds everything that does not depend on the values: token order, mask, sizes, the kernel. It is made once and
 * run many times; running allocates nothing. Typical use:
 *
 *   fpsa_plan* plan;
 *   fpsa_plan_sliding_tile(&spec, &geometry, &window, &plan);
 *   fpsa_plan_workspace_bytes(plan, batch, threads, &bytes);   then allocate them, 64-byte aligned
 *   fpsa_run(plan, &arguments);                                as often as you like
 *   fpsa_plan_destroy(plan);
 *
 * Every count is in elements unless its name ends in _bytes, every stride too. Shape letters: B batch, H heads, L
 * tokens (Lq queries, Lk keys), D head dim. Every function that can fail returns a fpsa_status and, unless that is
 * FPSA_OK, leaves a message for fpsa_last_error(); its outputs are then untouched. No function prints, aborts or
 * throws.
 */
#ifndef FPSA_H_
#define FPSA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FPSA_API __attribute__((visibility("default")))
#else
#define FPSA_API
#endif

/* ---- versions, errors ---- */

/* Of this header. The library takes programs of an equal or lower number; it rises when the interface grows. */
#define FPSA_ABI_VERSION 1

/* Of the library that is loaded. */
FPSA_API int32_t fpsa_abi_version(void);
/* "major.minor.patch"; lives for ever. */
FPSA_API const char* fpsa_version(void);

typedef int32_t fpsa_status;
enum {
  FPSA_OK = 0,
  FPSA_INVALID_ARGUMENT = 1, /* the message names argument, expectation, value, remedy */
  FPSA_UNSUPPORTED = 2,      /* legal, but not on this machine */
  FPSA_OUT_OF_MEMORY = 3,
  FPSA_SYSTEM_ERROR = 4 /* the system refused, e.g. to start a thread */
};

/* The message of this thread's last failure, "" if there was none; valid until its next failure. */
FPSA_API const char* fpsa_last_error(void);

/* ---- instruction sets ---- */

/* Levels that the build knows, lowest first: names for index 0 .. count - 1, null beyond. */
FPSA_API int32_t fpsa_isa_count(void);
FPSA_API const char* fpsa_isa_name(int32_t index);
/* The highest level that this machine supports, and the one that new plans take. */
FPSA_API const char* fpsa_isa_detected(void);
FPSA_API const char* fpsa_isa_current(void);
/* Limits the whole process to a level by name; "auto" goes back to the detected one. Plans keep what they have.
 *   Errors    FPSA_INVALID_ARGUMENT an unknown name; FPSA_UNSUPPORTED a level above the detected one */
FPSA_API fpsa_status fpsa_isa_force(const char* name);

/* ---- plans ---- */

typedef int32_t fpsa_dtype;
enum { FPSA_F32 = 0, FPSA_BF16 = 1 };

typedef int32_t fpsa_precision;
enum {
  FPSA_PRECISION_NONE = 0, /* the tensors' own dtype */
  FPSA_PRECISION_E4M3 = 1, /* q, k, v quantised to E4M3 in the run, the softmax weights in the kernel */
  FPSA_PRECISION_INT8 = 2  /* likewise to INT8; the softmax weights to 8 bits without sign */
};

/* What a head looks like and how it is computed. Start from FPSA_SPEC_INIT, which sets struct_bytes. */
typedef struct fpsa_spec {
  size_t struct_bytes;
  int64_t heads;            /* H, 1 to 2^20 */
  int64_t head_dim;         /* D, a multiple of 8 from 8 to 256 */
  fpsa_dtype dtype;         /* of q, k, v and out */
  fpsa_precision precision; /* quantisation needs a geometry */
  int32_t smooth_keys;      /* 1: subtract the mean of the keys before they are quantised, which changes nothing but
                               the error; for INT8 and E4M3. 0: do not */
  const char* isa;          /* a level by name; null or "auto": the current one */
} fpsa_spec;
#define FPSA_SPEC_INIT \
  { sizeof(fpsa_spec), 1, 64, FPSA_F32, FPSA_PRECISION_NONE, 0, NULL }

/* Extents along (T, Y, X); X is innermost in raster order. */
typedef struct fpsa_grid {
  int64_t t, y, x;
} fpsa_grid;

typedef struct fpsa_geometry {
  fpsa_grid grid;        /* tokens of one video; L = t * y * x, at most 2^31 - 1 */
  fpsa_grid tile;        /* the box of tokens that a mask keeps or drops as one; need not divide the grid */
  fpsa_grid granularity; /* tokens that share one scale of q or k: per axis a multiple or a divisor of the tile;
                            {0, 0, 0} means the tile; without quantisation it changes nothing */
} fpsa_geometry;

/* Window extent that covers any axis. */
#define FPSA_ALL_TILES INT64_C(2147483647)

typedef struct fpsa_plan fpsa_plan;

/* Every query sees every key, without a grid: self- or cross-attention, precision none.
 *   Shapes    queries = Lq, keys = Lk, 0 to 2^31 - 1 each
 *   Errors    FPSA_INVALID_ARGUMENT; FPSA_UNSUPPORTED for spec->isa. So too for the makers below */
FPSA_API fpsa_status fpsa_plan_dense(const fpsa_spec* spec, int64_t queries, int64_t keys, fpsa_plan** plan);

/* Sliding tiles: on an axis of n tiles a query tile q sees the window's w tiles from clamp(q - w / 2, 0, n - w) on, and
 * all when w >= n. A window of FPSA_ALL_TILES along every axis is dense attention over the grid.
 *   Units     window in tiles, (T, Y, X) */
FPSA_API fpsa_status fpsa_plan_sliding_tile(const fpsa_spec* spec, const fpsa_geometry* geometry,
                                            const fpsa_grid* window, fpsa_plan** plan);

/* Radial: the spatial neighbourhood that a query sees shrinks with the distance in time (arXiv 2506.19852).
 *   Units     decay in (0, 1], usually 0.2; min_band in tokens, usually 128 */
FPSA_API fpsa_status fpsa_plan_radial(const fpsa_spec* spec, const fpsa_geometry* geometry, double decay,
                                      int64_t min_band, fpsa_plan** plan);

/* A mask of your own over the grid's n tiles (raster order of tiles), in CSR form.
 *   Shapes    mask_heads is 1 (one mask shared by all heads) or spec->heads; row_begin [mask_heads * n + 1], never
 *             falling, from 0 to the length of col. Row r of mask h sees the key tiles
 *             col[row_begin[h*n + r] .. row_begin[h*n + r + 1]), strictly ascending. Both arrays are copied
 *   Edges     a row that sees nothing gives zeros and an lse of -inf */
FPSA_API fpsa_status fpsa_plan_masked(const fpsa_spec* spec, const fpsa_geometry* geometry, int64_t mask_heads,
                                      const int32_t* row_begin, const int32_t* col, fpsa_plan** plan);

/* Null is legal. */
FPSA_API void fpsa_plan_destroy(fpsa_plan* plan);

/* Lq and Lk; -1 for a null plan. */
FPSA_API int64_t fpsa_plan_queries(const fpsa_plan* plan);
FPSA_API int64_t fpsa_plan_keys(const fpsa_plan* plan);
/* Visible (query, key) pairs / all pairs, averaged over heads; NaN for a null plan. */
FPSA_API double fpsa_plan_density(const fpsa_plan* plan);
/* Floating-point operations of a run with this batch: 4 D for each visible pair, the softmax not counted.
 *   Errors    FPSA_INVALID_ARGUMENT, so too for a result above 2^63 - 1 */
FPSA_API fpsa_status fpsa_plan_flops(const fpsa_plan* plan, int64_t batch, int64_t* flops);
/* The kernel that runs, "attention_fwd_<dtype>_<isa>"; lives for ever. Null for a null plan. */
FPSA_API const char* fpsa_plan_kernel(const fpsa_plan* plan);
/* Bytes of workspace of a run with this batch on so many threads.
 *   Errors    FPSA_INVALID_ARGUMENT a batch that fpsa_run does not take, threads outside 1 .. 4096 */
FPSA_API fpsa_status fpsa_plan_workspace_bytes(const fpsa_plan* plan, int64_t batch, int32_t threads, size_t* bytes);

/* ---- threads ---- */

/* The calling thread and threads - 1 that sleep between runs. */
typedef struct fpsa_threads fpsa_threads;

/*   Errors    FPSA_INVALID_ARGUMENT threads outside 1 .. 4096; FPSA_SYSTEM_ERROR none to be had */
FPSA_API fpsa_status fpsa_threads_create(int32_t threads, fpsa_threads** pool);
/* Null is legal; no run may be using it. */
FPSA_API void fpsa_threads_destroy(fpsa_threads* pool);

/* ---- run ---- */

/* A [B,H,L,D] array: element (b, h, l, d) lies at b * batch_stride + h * head_stride + l * token_stride + d. So
 * [B,L,H,D] is another choice of strides: L*H*D, D, H*D. data is aligned to its element: 4 bytes for f32, 2 for bf16,
 * whose elements are the upper halves of f32, as uint16_t. */
typedef struct fpsa_tensor {
  const void* data;
  int64_t batch_stride, head_stride, token_stride;
} fpsa_tensor;

typedef struct fpsa_output {
  void* data;
  int64_t batch_stride, head_stride, token_stride;
} fpsa_output;

/* Start from FPSA_RUN_INIT, which sets struct_bytes. */
typedef struct fpsa_run_args {
  size_t struct_bytes;
  int64_t batch;       /* B, 0 to 2^62 / (H * (Lq + Lk + 256)) */
  fpsa_tensor q, k, v; /* q [B,H,Lq,D]; k, v [B,H,Lk,D]; raster order */
  fpsa_output out;     /* [B,H,Lq,D], raster order */
  float* lse;          /* [B,H,Lq] contiguous, natural log; or null */
  float* row_max;      /* [B,H,Lq] contiguous, the maximum that the softmax subtracted, in log2 units; or null */
  float softmax_scale; /* 0 means 1/sqrt(D) */
  void* workspace;     /* 64-byte aligned; what it holds before and after means nothing */
  size_t workspace_bytes;
  fpsa_threads* threads; /* null: the calling thread alone */
} fpsa_run_args;
#define FPSA_RUN_INIT                                                                                                  \
  {                                                                                                                    \
    sizeof(fpsa_run_args), 1, {NULL, 0, 0, 0}, {NULL, 0, 0, 0}, {NULL, 0, 0, 0}, {NULL, 0, 0, 0}, NULL, NULL, 0, NULL, \
        0, NULL                                                                                                        \
  }

/* out = softmax(softmax_scale q k^T over the visible keys) v.
 *   Requires  out, lse, row_max and the workspace overlap neither each other nor q, k, v. Only an out that begins where
 *             q, k or v does is detected
 *   Edges     no visible key: out 0, lse and row_max -inf. A visible score that is NaN or +inf makes its row NaN
 *   Numerics  scores and sums in F32. The bytes depend on the plan and the values alone, not on layout or threads
 *   Threads   any number of threads may run one plan at a time, each with its own workspace. Runs on one fpsa_threads
 *             follow each other. A workspace with room for fewer threads than there are limits the run to those.
 *             Allocates nothing
 *   Errors    FPSA_INVALID_ARGUMENT */
FPSA_API fpsa_status fpsa_run(const fpsa_plan* plan, const fpsa_run_args* args);

#ifdef __cplusplus
}
#endif

#endif /* FPSA_H_ */
