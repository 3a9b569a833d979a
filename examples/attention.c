/* Sliding-tile attention from C: plan once, run, and compare with dense attention. C99. */
#include <fpsa.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 4, DIM = 64, T = 9, Y = 16, X = 16, TOKENS = T * Y * X, ELEMS = TOKENS * HEADS * DIM };

static void check(fpsa_status status, const char* what) {
  if (status == FPSA_OK) return;
  fprintf(stderr, "%s: %s\n", what, fpsa_last_error());
  exit(1);
}

static float* random_values(unsigned* state) {
  float* x = malloc(sizeof(float) * ELEMS);
  if (x == NULL) exit(1);
  for (int i = 0; i < ELEMS; ++i) {
    *state = *state * 1664525u + 1013904223u;
    x[i] = (float)(*state >> 8) / 8388608.0f - 1.0f;
  }
  return x;
}

/* One run of a plan over q, k, v [L,H,D]; the result is the caller's to free. */
static float* run(const fpsa_plan* plan, const float* q, const float* k, const float* v, fpsa_threads* threads,
                  int32_t thread_count) {
  fpsa_run_args args = FPSA_RUN_INIT;
  float* out = malloc(sizeof(float) * ELEMS);
  void* memory;
  check(fpsa_plan_workspace_bytes(plan, 1, thread_count, &args.workspace_bytes), "workspace size");
  memory = malloc(args.workspace_bytes + 63);
  if (out == NULL || memory == NULL) exit(1);
  args.workspace = (void*)(((uintptr_t)memory + 63) / 64 * 64);
  args.q.data = q;
  args.k.data = k;
  args.v.data = v;
  args.out.data = out;
  /* [B,L,H,D]: heads lie beside each other in a token. */
  args.q.batch_stride = args.k.batch_stride = args.v.batch_stride = args.out.batch_stride = ELEMS;
  args.q.head_stride = args.k.head_stride = args.v.head_stride = args.out.head_stride = DIM;
  args.q.token_stride = args.k.token_stride = args.v.token_stride = args.out.token_stride = HEADS * DIM;
  args.threads = threads;
  check(fpsa_run(plan, &args), "run");
  free(memory);
  return out;
}

static double largest_difference(const float* a, const float* b) {
  double largest = 0;
  for (int i = 0; i < ELEMS; ++i)
    largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
  return largest;
}

int main(void) {
  const int32_t thread_count = 2;
  unsigned state = 1;
  fpsa_spec spec = FPSA_SPEC_INIT;
  fpsa_geometry geometry = {{T, Y, X}, {3, 4, 4}, {0, 0, 0}};
  const fpsa_grid window = {3, 2, 2}, everything = {FPSA_ALL_TILES, FPSA_ALL_TILES, FPSA_ALL_TILES};
  fpsa_plan *sparse, *full, *full_e4m3, *dense;
  fpsa_threads* threads;
  int64_t flops, dense_flops;
  float *q, *k, *v, *out, *from_full, *from_e4m3, *from_dense;
  double e4m3_error;
  int correct;

  spec.heads = HEADS;
  spec.head_dim = DIM;
  check(fpsa_plan_sliding_tile(&spec, &geometry, &window, &sparse), "sliding-tile plan");
  check(fpsa_plan_sliding_tile(&spec, &geometry, &everything, &full), "full-window plan");
  check(fpsa_plan_dense(&spec, TOKENS, TOKENS, &dense), "dense plan");
  spec.precision = FPSA_PRECISION_E4M3;
  check(fpsa_plan_sliding_tile(&spec, &geometry, &everything, &full_e4m3), "E4M3 plan");
  check(fpsa_threads_create(thread_count, &threads), "threads");

  q = random_values(&state);
  k = random_values(&state);
  v = random_values(&state);
  out = run(sparse, q, k, v, threads, thread_count);
  from_full = run(full, q, k, v, threads, thread_count);
  from_e4m3 = run(full_e4m3, q, k, v, threads, thread_count);
  from_dense = run(dense, q, k, v, threads, thread_count);

  check(fpsa_plan_flops(sparse, 1, &flops), "flops");
  check(fpsa_plan_flops(dense, 1, &dense_flops), "flops");
  e4m3_error = largest_difference(from_e4m3, from_dense);
  printf("fpsa %s, %s: %d tokens, %d heads, density %.4f, %.3f of %.3f GFLOP\n", fpsa_version(),
         fpsa_plan_kernel(sparse), (int)TOKENS, (int)HEADS, fpsa_plan_density(sparse), (double)flops * 1e-9,
         (double)dense_flops * 1e-9);
  printf("largest difference from dense: window %.4f, full window %g, full window E4M3 %.5f\n",
         largest_difference(out, from_dense), largest_difference(from_full, from_dense), e4m3_error);

  /* Averages of values up to 1: roundings to 3 mantissa bits keep well below this. */
  correct = largest_difference(from_full, from_dense) == 0 && e4m3_error < 3.0 / 16;
  if (!correct) fprintf(stderr, "the full window should give the values of dense attention\n");

  free(q), free(k), free(v), free(out), free(from_full), free(from_e4m3), free(from_dense);
  fpsa_threads_destroy(threads);
  fpsa_plan_destroy(sparse);
  fpsa_plan_destroy(full);
  fpsa_plan_destroy(full_e4m3);
  fpsa_plan_destroy(dense);
  return correct ? 0 : 1;
}
