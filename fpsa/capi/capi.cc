// The C interface over the plan room: translates structs, and exceptions into statuses with a message.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/capi/fpsa.h"
#include "fpsa/kernel/table.h"
#include "fpsa/pattern/radial.h"
#include "fpsa/plan/run.h"
#include "fpsa/plan/thread_pool.h"

struct fpsa_plan {
  fpsa::plan::AttentionPlan plan;
};

struct fpsa_threads {
  fpsa::plan::ThreadPool pool;
};

namespace fpsa::capi {
namespace {

// Fixed, so that recording a failure cannot fail: a longer message is cut.
constexpr size_t kMessageBytes = 1024;
thread_local char last_message[kMessageBytes];

fpsa_status fail(fpsa_status status, std::string_view message) noexcept {
  const size_t size = std::min(message.size(), kMessageBytes - 1);
  std::memcpy(last_message, message.data(), size);
  last_message[size] = '\0';
  return status;
}

// What this machine cannot do, as opposed to what makes no sense.
class Unsupported : public Error {
 public:
  using Error::Error;
};

template <class Fn>
fpsa_status guarded(const Fn& fn) noexcept {
  try {
    fn();
    return FPSA_OK;
  } catch (const Unsupported& error) {
    return fail(FPSA_UNSUPPORTED, error.what());
  } catch (const Error& error) {
    return fail(FPSA_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(FPSA_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(FPSA_SYSTEM_ERROR, error.what());
  } catch (...) {
    return fail(FPSA_SYSTEM_ERROR, "unknown error");
  }
}

template <class T>
void check_given(const T* pointer, const char* name) {
  FPSA_CHECK(pointer != nullptr, name, ": expected a pointer, got null");
}

// A struct's size tells the version of the header that it was compiled with; so far there is one.
template <class T>
void check_struct(const T* args, const char* name, const char* init) {
  check_given(args, name);
  FPSA_CHECK(args->struct_bytes == sizeof(T), name, ": expected struct_bytes ", sizeof(T), ", got ", args->struct_bytes,
             "; start from ", init);
}

kernel::Isa level_of(std::string_view name) {
  std::string names = "auto";
  for (const kernel::Isa isa : kernel::all_isas()) {
    names += join(", ", kernel::isa_name(isa));
    if (kernel::isa_name(isa) != name) continue;
    if (isa > kernel::detected_isa())
      throw Unsupported(join("isa: '", name, "' needs ", kernel::isa_requirements(isa),
                             ", which this machine does not support; its highest level is '",
                             kernel::isa_name(kernel::detected_isa()), "'"));
    return isa;
  }
  throw Error(join("isa: expected one of ", names, ", got '", name, "'"));
}

plan::Precision precision_of(fpsa_precision precision) {
  switch (precision) {
    case FPSA_PRECISION_NONE:
      return plan::Precision::kNone;
    case FPSA_PRECISION_E4M3:
      return plan::Precision::kE4m3;
    case FPSA_PRECISION_INT8:
      return plan::Precision::kInt8;
    default:
      throw Error(
          join("precision: expected FPSA_PRECISION_NONE (0), FPSA_PRECISION_E4M3 (1) or FPSA_PRECISION_INT8 (2), "
               "got ",
               precision));
  }
}

plan::AttentionSpec spec_of(const fpsa_spec* from) {
  check_struct(from, "spec", "FPSA_SPEC_INIT");
  plan::AttentionSpec spec;
  spec.heads = from->heads;
  spec.dim = from->head_dim;
  FPSA_CHECK(from->dtype == FPSA_F32 || from->dtype == FPSA_BF16, "dtype: expected FPSA_F32 (0) or FPSA_BF16 (1), got ",
             from->dtype);
  spec.dtype = from->dtype == FPSA_F32 ? kernel::Dtype::kF32 : kernel::Dtype::kBf16;
  spec.precision = precision_of(from->precision);
  FPSA_CHECK(from->smooth_keys == 0 || from->smooth_keys == 1, "smooth_keys: expected 0 or 1, got ", from->smooth_keys);
  spec.smooth_keys = from->smooth_keys == 1;
  if (from->isa != nullptr && std::string_view(from->isa) != "auto") spec.isa = level_of(from->isa);
  // Here and not only where a plan is made: the makers of masks size arrays by the heads.
  plan::check_spec(spec);
  return spec;
}

pattern::Grid grid_of(const fpsa_grid& grid) {
  return {grid.t, grid.y, grid.x};
}

// Makes a plan over a geometry; make_mask(grid, tile) gives its mask.
template <class MakeMask>
fpsa_status plan_over(const fpsa_spec* spec, const fpsa_geometry* geometry, fpsa_plan** plan,
                      const MakeMask& make_mask) noexcept {
  return guarded([&] {
    check_given(plan, "plan");
    const auto attention = spec_of(spec);
    check_given(geometry, "geometry");
    const auto grid = grid_of(geometry->grid), tile = grid_of(geometry->tile);
    auto granularity = grid_of(geometry->granularity);
    if (granularity == pattern::Grid{0, 0, 0}) granularity = tile;
    auto shared = std::make_shared<const plan::Geometry>(grid, tile, granularity, make_mask(grid, tile));
    *plan = new fpsa_plan{plan::AttentionPlan(std::move(shared), attention)};
  });
}

plan::Source source_of(const fpsa_tensor& x) {
  return {x.data, x.batch_stride, x.head_stride, x.token_stride};
}

}  // namespace
}  // namespace fpsa::capi

using namespace fpsa;
using namespace fpsa::capi;

extern "C" {

int32_t fpsa_abi_version(void) {
  return FPSA_ABI_VERSION;
}

const char* fpsa_version(void) {
  return FPSA_VERSION;
}

const char* fpsa_last_error(void) {
  return last_message;
}

int32_t fpsa_isa_count(void) {
  return static_cast<int32_t>(kernel::all_isas().size());
}

const char* fpsa_isa_name(int32_t index) {
  // Names are string literals.
  return index >= 0 && index < fpsa_isa_count()
             ? kernel::isa_name(kernel::all_isas()[static_cast<size_t>(index)]).data()
             : nullptr;
}

const char* fpsa_isa_detected(void) {
  return kernel::isa_name(kernel::detected_isa()).data();
}

const char* fpsa_isa_current(void) {
  return kernel::isa_name(kernel::current_isa()).data();
}

fpsa_status fpsa_isa_force(const char* name) {
  return guarded([&] {
    check_given(name, "name");
    if (std::string_view(name) != "auto") level_of(name);
    kernel::force_isa(name);
  });
}

fpsa_status fpsa_plan_dense(const fpsa_spec* spec, int64_t queries, int64_t keys, fpsa_plan** plan) {
  return guarded([&] {
    check_given(plan, "plan");
    *plan = new fpsa_plan{plan::AttentionPlan(queries, keys, spec_of(spec))};
  });
}

fpsa_status fpsa_plan_sliding_tile(const fpsa_spec* spec, const fpsa_geometry* geometry, const fpsa_grid* window,
                                   fpsa_plan** plan) {
  return plan_over(spec, geometry, plan, [&](const pattern::Grid& grid, const pattern::Grid& tile) {
    check_given(window, "window");
    return pattern::sliding_tile(grid, tile, grid_of(*window));
  });
}

fpsa_status fpsa_plan_radial(const fpsa_spec* spec, const fpsa_geometry* geometry, double decay, int64_t min_band,
                             fpsa_plan** plan) {
  return plan_over(spec, geometry, plan, [&](const pattern::Grid& grid, const pattern::Grid& tile) {
    return pattern::radial(grid, tile, {decay, min_band});
  });
}

fpsa_status fpsa_plan_masked(const fpsa_spec* spec, const fpsa_geometry* geometry, int64_t mask_heads,
                             const int32_t* row_begin, const int32_t* col, fpsa_plan** plan) {
  return plan_over(spec, geometry, plan, [&](const pattern::Grid& grid, const pattern::Grid& tile) {
    check_given(row_begin, "row_begin");
    FPSA_CHECK(mask_heads == 1 || mask_heads == spec->heads, "mask_heads: expected 1 or the ", spec->heads,
               " heads of spec, got ", mask_heads);
    const int64_t tiles = pattern::tiles_per_axis(grid, tile).volume();
    std::vector<int32_t> rows(row_begin, row_begin + mask_heads * tiles + 1);
    // Only its last entry says how long col is, so it is checked before col is read.
    FPSA_CHECK(rows.back() >= 0, "row_begin: expected its last entry to be the length of col, got ", rows.back());
    FPSA_CHECK(col != nullptr || rows.back() == 0, "col: expected a pointer to ", rows.back(), " entries, got null");
    return pattern::from_csr(mask_heads, tiles, tiles, rows, {col, col + rows.back()});
  });
}

void fpsa_plan_destroy(fpsa_plan* plan) {
  delete plan;
}

int64_t fpsa_plan_queries(const fpsa_plan* plan) {
  return plan ? plan->plan.queries() : -1;
}

int64_t fpsa_plan_keys(const fpsa_plan* plan) {
  return plan ? plan->plan.keys() : -1;
}

double fpsa_plan_density(const fpsa_plan* plan) {
  return plan ? plan->plan.density() : std::numeric_limits<double>::quiet_NaN();
}

fpsa_status fpsa_plan_flops(const fpsa_plan* plan, int64_t batch, int64_t* flops) {
  return guarded([&] {
    check_given(plan, "plan");
    check_given(flops, "flops");
    *flops = plan->plan.flops(batch);
  });
}

const char* fpsa_plan_kernel(const fpsa_plan* plan) {
  return plan ? plan->plan.entry().name.data() : nullptr;
}

fpsa_status fpsa_plan_workspace_bytes(const fpsa_plan* plan, int64_t batch, int32_t threads, size_t* bytes) {
  return guarded([&] {
    check_given(plan, "plan");
    check_given(bytes, "bytes");
    *bytes = static_cast<size_t>(plan->plan.workspace_bytes(batch, threads));
  });
}

fpsa_status fpsa_threads_create(int32_t threads, fpsa_threads** pool) {
  return guarded([&] {
    check_given(pool, "pool");
    *pool = new fpsa_threads{plan::ThreadPool(threads)};
  });
}

void fpsa_threads_destroy(fpsa_threads* pool) {
  delete pool;
}

fpsa_status fpsa_run(const fpsa_plan* plan, const fpsa_run_args* args) {
  return guarded([&] {
    check_given(plan, "plan");
    check_struct(args, "args", "FPSA_RUN_INIT");
    const auto& out = args->out;
    const float scale = args->softmax_scale != 0.0f
                            ? args->softmax_scale
                            : static_cast<float>(1.0 / std::sqrt(static_cast<double>(plan->plan.spec().dim)));
    plan::SerialRunner serial;
    plan::ParallelRunner& runner = args->threads ? static_cast<plan::ParallelRunner&>(args->threads->pool) : serial;
    plan::run(plan->plan, args->batch, {source_of(args->q), source_of(args->k), source_of(args->v)}, scale,
              {{out.data, out.batch_stride, out.head_stride, out.token_stride}, args->lse, args->row_max},
              {static_cast<std::byte*>(args->workspace), args->workspace_bytes}, runner);
  });
}

}  // extern "C"
