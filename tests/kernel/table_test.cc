#include "fpsa/kernel/table.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"

namespace fpsa::kernel {
namespace {

class KernelTable : public testing::Test {
 protected:
  void TearDown() override { force_isa("auto"); }
};

TEST_F(KernelTable, ForcedLevelIsTheOneThatServes) {
  for (const Isa isa : all_isas()) {
    if (isa > detected_isa()) continue;
    force_isa(isa_name(isa));
    EXPECT_EQ(current_isa(), isa);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16, Dtype::kE4m3, Dtype::kInt8}) {
      const auto& entry = attention_fwd(dtype);
      EXPECT_LE(entry.isa, isa);
      EXPECT_EQ(entry.dtype, dtype);
      // The best of the levels allowed: nothing between it and the limit.
      for (const auto& other : attention_fwd_entries())
        EXPECT_FALSE(other.dtype == dtype && other.isa > entry.isa && other.isa <= isa) << other.name;
    }
    if (isa != Isa::kReference) {
      EXPECT_NE(attention_fwd(Dtype::kBf16).isa, Isa::kReference);
    }
  }
}

TEST_F(KernelTable, NamesFollowTheGrammarAndAreListedInSelected) {
  for (const auto& entry : attention_fwd_entries())
    EXPECT_EQ(entry.name, join("attention_fwd_", dtype_name(entry.dtype), "_", isa_name(entry.isa)));
  for (const auto& entry : quantize_entries())
    EXPECT_EQ(entry.name, join("quantize_", dtype_name(entry.dtype), "_", isa_name(entry.isa)));
  for (const auto& entry : prepass_entries())
    EXPECT_EQ(entry.name, join("prepass_", dtype_name(entry.codes), "_", isa_name(entry.isa)));
  EXPECT_EQ(selected(),
            (std::vector<std::string>{
                std::string(attention_fwd(Dtype::kF32).name), std::string(attention_fwd(Dtype::kBf16).name),
                std::string(attention_fwd(Dtype::kE4m3).name), std::string(attention_fwd(Dtype::kInt8).name),
                std::string(attention_bwd(Dtype::kF32).name), std::string(attention_bwd(Dtype::kBf16).name),
                std::string(attention_bwd(Dtype::kE4m3).name), std::string(quantize(Dtype::kE4m3).name),
                std::string(quantize(Dtype::kInt8).name), std::string(prepass(Dtype::kE4m3).name),
                std::string(prepass(Dtype::kInt8).name)}));
}

TEST_F(KernelTable, UnknownOrUnsupportedLevelIsAnError) {
  EXPECT_THROW(force_isa("sse9"), Error);
  for (const Isa isa : all_isas()) {
    if (isa > detected_isa()) {
      EXPECT_THROW(force_isa(isa_name(isa)), Error);
    }
  }
  EXPECT_EQ(current_isa(), detected_isa());
}

TEST_F(KernelTable, CudaIsAvailableOrSaysWhyNot) {
  EXPECT_EQ(cuda::available(), cuda::unavailable_reason().empty());
  EXPECT_FALSE(!cuda::built() && cuda::available());
  EXPECT_EQ(cuda::unavailable_reason(0).empty(), cuda::available() && cuda::devices()[0].runs_sm90a());
}

}  // namespace
}  // namespace fpsa::kernel
