#include "fpsa/app/study_report.h"

#include <algorithm>

namespace fpsa::app {

std::vector<std::string> study_notes(bool judged, bool trained, bool lpips) {
  std::vector<std::string> out;
  if (trained) {
    out.push_back(
        "PSNR, SSIM and temporal figures of trained weights compare with the dense clips of the untrained ones: they "
        "say "
        "how different the clips are, not how good.");
  } else {
    out.push_back(
        "No trained weights were given (`--trained NAME=FOLDER`): nothing here says what training with sparsity and "
        "FP8 "
        "would recover, and the ablations of training are missing.");
  }
  if (judged) {
    out.push_back(
        "Prompts are held-out combinations of the procedural set, those of `fpsa train eval` with the same seed. The "
        "clip "
        "checker judges, not a person. Pooled accuracy is the mean share of the four attributes that are right. "
        "Ablations are compared by PSNR and SSIM only.");
  } else {
    out.push_back("Accuracy is left out: the checker judges the procedural prompts of the embedded model only.");
  }
  out.push_back(
      "Intervals are 95% percentile bootstrap intervals over prompts, paired where arms are compared, and Wilson "
      "intervals for shares. They are not corrected for the number of comparisons.");
  out.push_back(
      "PSNR and temporal PSNR (of the changes from frame to frame) are means over the clips that differ from dense at "
      "all. Motion and flicker are the mean first and second differences of frames over those of the dense clip: 1 is "
      "alike.");
  out.push_back(
      "Times are of denoising and VAE decoding; loading and text encoding are not in them. Every ratio is of a clip "
      "and "
      "the dense clip of its prompt that the same run made before it.");
  out.push_back(
      "`fpsa generate` with the same settings and the seed of an item (the study's seed plus its number, from 0) makes "
      "the same clip.");
  out.push_back(
      "The kernels have one scale of P, 256, and take the keys from the first to the last. Other scales and orders are "
      "emulated with torch's products, all four by the same code: compare them with each other. They are not timed.");
  out.push_back(lpips ? "LPIPS is version 0.1 on AlexNet, the mean over frames; the lower, the nearer to dense."
                      : "LPIPS is left out: its weights were not given (`--lpips-weights`).");
  return out;
}

int64_t records_elsewhere(const StudyReport& report) {
  int64_t count = 0;
  for (const auto& results : report.results)
    count += std::ranges::count_if(results.records, [&](const ClipRecord& r) { return r.machine != report.machine; });
  return count;
}

nlohmann::json study_json(const StudyReport& report) {
  nlohmann::json result = {{"fpsa_version", FPSA_VERSION},
                           {"model", report.model},
                           {"machine", report.machine},
                           {"grid", report.grid},
                           {"schedule_from", report.schedule_origin},
                           {"settings", report.settings},
                           {"arms", nlohmann::json::array()},
                           {"verdicts", report.verdicts},
                           {"notes", report.notes},
                           {"clips_of_other_machines", records_elsewhere(report)}};
  for (const auto& summary : report.summaries)
    result["arms"].push_back(to_json(summary));
  return result;
}

}  // namespace fpsa::app
