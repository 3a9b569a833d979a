// Every numeric tolerance of the test suite, one reason each. Python tests read this file too: each line has
// the form `inline constexpr double kName = value;  // reason`. A tolerance is derived, never loosened to pass.
#pragma once

// clang-format off
namespace fpsa::tolerance {

inline constexpr double kModelF32 = 1e-4;       // models against diffusers/transformers, F32: max error / output range
inline constexpr double kSamplerTrajectory = 1e-5;  // sampler trajectories against diffusers, F32: relative to range
inline constexpr double kPipelineLatents = 1e-3;    // whole pipeline's latents, F32: relative to range

inline constexpr double kComposedF32 = 1e-5;  // composed attention against F64: 80 eps, sums of up to 1100 terms, relative to range

inline constexpr double kMergedKeys = 1e-5;  // F32 attention to one key of weight n against n equal keys by kernels: exp2 of 2.6e-6 in row sums, three layers, relative L2

inline constexpr double kComposedF64 = 1e-12;  // the same in F64: 1e4 eps, values and gradients up to about 10
inline constexpr double kAttentionF32 = 2.0;   // F32 kernels against F64 sums: factor on the bound of dot, exp2 and row sums
inline constexpr double kAttentionBf16 = 0.0079;  // bf16 kernels: two roundings of P of 2^-8 each at most, relative to max |v|
inline constexpr double kAttentionBf16Rms = 1e-4;  // bf16 kernels with reference's roundings of P: under 1% of the P lie so near a tie that exp2's and S2's errors move them, by 2^-8 of one P among tens; relative to max |v|
inline constexpr double kAttentionF16 = 0.00049;  // F16 kernels against F32 P: one rounding of P of 2^-11 at most, relative to max |v|
inline constexpr double kAttentionF16Rms = 1.25e-4;  // the same, root mean square: a rounding of 2^-11 at most is 0.0002 rms over all mantissas, and values of 0.6 max |v| at most are averaged with its signs
inline constexpr double kAttentionE4m3 = 0.0626;  // e4m3 kernels: the code of the largest P may flip by 1/16, relative to max |v|
inline constexpr double kAttentionE4m3Rms = 1e-3;  // e4m3 kernels: flips are rare, so the root mean square stays small
inline constexpr double kAttentionE4m3Codes = 1e-5;  // e4m3 kernels on known codes: exp2 2.6e-6 in the row sum, S2 up to 16 in F32, |v| <= 1
inline constexpr double kAttentionExact = 0.002;  // exact output of e4m3 kernels: P rounded to BF16 by 2^-8 at most, half of it on average, relative to max |v|
inline constexpr double kAttentionBwdRms = 0.004;  // bf16 and e4m3 backward, RMS of the error over that of the gradient: three roundings to BF16 of 0.0016 each
inline constexpr double kAttentionBwdSlope = 3e-4;  // F32 gradients (30 eps of |g| up to 10) along a direction of 1424 elements, against central differences
inline constexpr double kAttentionInt8Rms = 0.5;  // int8 kernels whose blocks differ: roundings of half a code, 0.41 rms for both; in codes per sqrt(keys)
inline constexpr double kAttentionInt8Codes = 1e-5;  // int8 kernels with the same codes: exp2 2.6e-6 in the row sum and F32 sums, relative to max |v|
inline constexpr double kSmoothing = 1e-3;  // F32 attention with and without a mean in K: 65 roundings each of sums of |q k| / 8 up to 130
inline constexpr double kOpsF32 = 2e-6;   // F32 operators against F64, |S| up to 5, 200 keys: 30 eps, relative to max |v|
inline constexpr double kOpsBf16 = 0.0098;  // BF16 operators against F64: roundings of P (2^-8) and of the output (2^-8) and F32 sums
inline constexpr double kOpsGradRms = 0.006;  // BF16 and E4M3 gradients against F64, RMS relative to the gradient: five roundings to BF16 of 0.0016 each and flips of codes
inline constexpr double kE4m3LinearRms = 0.005;  // BF16 E4M3 linear, RMS relative: roundings to BF16 (2^-9 at most, 0.0016 RMS for all mantissas) of the product, the scaled operand and the result
inline constexpr double kOpsE4m3 = 0.0625;  // E4M3 operators against F64 on the same Q, K, V: P rounded by 2^-4 at most

inline constexpr double kOpsInt8 = 0.05;  // INT8 operators against F64, normal Q, K, V of D = 64: scores off by 4 / 127 / sqrt(6) = 0.013 rms, V by 0.009; three sigma of one key, and rows average

inline constexpr double kCalibrationSums = 4e-7;  // sums of squares whose terms are F32 differences and products, 3 roundings of 2^-24 each, relative to the sums of both squares
inline constexpr double kNormActF32 = 2e-6;  // the VAE's fused norm and SiLU against composed operators: 16 eps, relative to range
inline constexpr double kFiniteDifferenceF64 = 1e-6;  // central differences in F64, step 1e-6: rounding 1e-15 * |loss| / step, |loss| < 1e3
inline constexpr double kVaeBf16 = 0.08;  // VAE in BF16 against F32: 40 roundings of 2^-9 in a row, relative to range

inline constexpr double kRegroupedLoss = 0.002;  // a batch's mean loss from forwards of its parts: BF16 products may round otherwise by 2^-9, and means average

inline constexpr double kMergedLora = 1e-4;  // F32 adapters beside weights against merged ones: other order of sums in six layers, relative to what the adapters change
inline constexpr double kMergedLoraE4m3 = 0.02;  // the same with an E4M3 feed-forward: where rounding differs a code near a tie moves by 1/16 of its value, and few do

inline constexpr double kLpips = 1e-4;  // LPIPS in F32 by other convolution routines: sums of up to 3456 products, squared differences, relative

inline constexpr double kGpuF16Rms = 0.00075;  // F16 operators on a GPU against F32, RMS relative: as kOpsGradRms, whose five roundings are to 11 bits in place of 8
inline constexpr double kGpuVanishing = 0.008;  // d_q and d_k of one key on a GPU, relative to |d_out| |v| |other| scale: P and out, of which D is made, are rounded to BF16 by 2^-8 each, and F32 sums; F16: 2^-3 of it
inline constexpr double kGpuLse = 1e-3;  // LSE on a GPU against the CPU's, relative L2: scores whose FP8 products keep 2^-13 of terms up to 7, 4 products, over LSE of 5

}  // namespace fpsa::tolerance
// clang-format on
