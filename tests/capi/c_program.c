/* fpsa.h as a strict C99 compiler sees it: every function through a small program. */
#include <fpsa.h>
#include <stdlib.h>
#include <string.h>

const char* fpsa_test_c_program(void);

enum { TOKENS = 32, DIM = 8 };

/* Null when all is well, else what went wrong. */
const char* fpsa_test_c_program(void) {
  static const int32_t row_begin[] = {0, 1, 2}, col[] = {0, 1};
  const fpsa_geometry geometry = {{2, 4, 4}, {1, 4, 4}, {0, 0, 0}};
  const fpsa_grid window = {1, 1, 1};
  float values[TOKENS * DIM], out[2][TOKENS * DIM];
  fpsa_spec spec = FPSA_SPEC_INIT;
  fpsa_run_args args = FPSA_RUN_INIT;
  fpsa_threads* threads = NULL;
  fpsa_plan *plans[2] = {NULL, NULL}, *other = NULL;
  int64_t flops = 0;
  void* memory;
  int i;

  if (fpsa_abi_version() != FPSA_ABI_VERSION) return "abi version";
  if (fpsa_version()[0] == '\0') return "version";
  if (strcmp(fpsa_isa_name(0), "reference") != 0 || fpsa_isa_name(fpsa_isa_count()) != NULL) return "isa names";
  if (strcmp(fpsa_isa_current(), fpsa_isa_detected()) != 0) return "isa";
  if (fpsa_isa_force("auto") != FPSA_OK) return fpsa_last_error();
  spec.head_dim = DIM;
  if (fpsa_plan_sliding_tile(&spec, &geometry, &window, &plans[0]) != FPSA_OK) return fpsa_last_error();
  if (fpsa_plan_masked(&spec, &geometry, 1, row_begin, col, &plans[1]) != FPSA_OK) return fpsa_last_error();
  if (fpsa_plan_radial(&spec, &geometry, 0.2, 8, &other) != FPSA_OK) return fpsa_last_error();
  fpsa_plan_destroy(other);
  if (fpsa_plan_dense(&spec, 5, 7, &other) != FPSA_OK) return fpsa_last_error();
  if (fpsa_plan_queries(other) != 5 || fpsa_plan_keys(other) != 7) return "lengths";
  fpsa_plan_destroy(other);
  if (fpsa_plan_density(plans[0]) != 0.5) return "density";
  if (fpsa_plan_flops(plans[0], 1, &flops) != FPSA_OK || flops != 4 * DIM * TOKENS * TOKENS / 2) return "flops";
  if (fpsa_plan_kernel(plans[0]) == NULL) return "kernel";
  if (fpsa_threads_create(2, &threads) != FPSA_OK) return fpsa_last_error();

  for (i = 0; i < TOKENS * DIM; ++i)
    values[i] = (float)(i * 37 % 64) / 32.0f - 1.0f;
  if (fpsa_plan_workspace_bytes(plans[0], 1, 2, &args.workspace_bytes) != FPSA_OK) return fpsa_last_error();
  memory = malloc(args.workspace_bytes + 63);
  if (memory == NULL) return "memory";
  args.workspace = (void*)(((uintptr_t)memory + 63) / 64 * 64);
  args.q.data = args.k.data = args.v.data = values;
  args.q.token_stride = args.k.token_stride = args.v.token_stride = args.out.token_stride = DIM;
  args.threads = threads;
  for (i = 0; i < 2; ++i) {
    args.out.data = out[i];
    if (fpsa_run(plans[i], &args) != FPSA_OK) return fpsa_last_error();
  }
  free(memory);
  fpsa_threads_destroy(threads);
  fpsa_plan_destroy(plans[0]);
  fpsa_plan_destroy(plans[1]);
  return memcmp(out[0], out[1], sizeof out[0]) == 0 ? NULL : "the same mask by two makers gives different values";
}
