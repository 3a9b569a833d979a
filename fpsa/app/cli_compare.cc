#include "fpsa/app/cli_compare.h"

#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "fpsa/app/clip_files.h"
#include "fpsa/app/clip_metrics.h"
#include "fpsa/app/flags.h"
#include "fpsa/app/lpips.h"
#include "fpsa/app/usage_error.h"
#include "fpsa/io/image.h"

namespace fpsa::app {
namespace {

struct CompareOptions {
  std::filesystem::path a, b, lpips_weights;
  bool json = false;
};

struct SheetOptions {
  std::filesystem::path output;
  std::vector<std::filesystem::path> clips;
  std::vector<std::string> labels;
  int64_t columns = 6;
};

// JSON has no infinity: identical frames become null.
nlohmann::json finite(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

void compare(const CompareOptions& options) {
  const auto a = read_clip(options.a), b = read_clip(options.b);
  const auto difference = compare_clips(a, b);
  std::optional<double> lpips;
  if (!options.lpips_weights.empty()) lpips = Lpips(options.lpips_weights).distance(a, b);
  if (options.json) {
    auto frames = nlohmann::json::array();
    for (double value : difference.frame_psnr_db)
      frames.push_back(finite(value));
    nlohmann::json result = {{"identical", difference.identical},
                             {"psnr_db", finite(difference.psnr_db)},
                             {"ssim", difference.ssim},
                             {"worst_frame", difference.worst_frame},
                             {"frame_psnr_db", frames}};
    if (lpips) result["lpips"] = *lpips;
    std::cout << result.dump(2) << '\n';
    return;
  }
  if (difference.identical) {
    std::cout << "identical\n";
    return;
  }
  std::cout << std::fixed << "PSNR " << std::setprecision(2) << difference.psnr_db << " dB (worst frame "
            << difference.worst_frame << ": " << difference.frame_psnr_db[difference.worst_frame] << " dB), SSIM "
            << std::setprecision(4) << difference.ssim;
  if (lpips) std::cout << ", LPIPS " << *lpips;
  std::cout << '\n';
}

void make_sheet(const SheetOptions& options) {
  FPSA_USAGE_CHECK(options.labels.empty() || options.labels.size() == options.clips.size(),
                   "--label: expected one for ", "each of the ", options.clips.size(), " clips or none, got ",
                   options.labels.size());
  FPSA_USAGE_CHECK(options.output.extension() == ".png", "OUT: expected a name that ends in .png, got '",
                   options.output.string(), "'");
  std::vector<io::Video> videos;
  for (const auto& clip : options.clips)
    videos.push_back(read_clip(clip));
  std::vector<io::SheetRow> rows;
  for (size_t i = 0; i < videos.size(); ++i)
    rows.push_back({options.labels.empty() ? options.clips[i].stem().string() : options.labels[i], &videos[i]});
  io::write_png(options.output, io::contact_sheet(rows, options.columns));
}

}  // namespace

void add_compare_commands(CLI::App& app) {
  auto* compare_command = app.add_subcommand("compare", "PSNR, SSIM and LPIPS of two clips of one shape");
  auto compare_options = std::make_shared<CompareOptions>();
  compare_command->add_option("A", compare_options->a, "Video, or folder of .png frames")->required();
  compare_command->add_option("B", compare_options->b, "The other one")->required();
  add_path(*compare_command, "--lpips-weights", compare_options->lpips_weights, kLpipsHelp);
  compare_command->add_flag("--json", compare_options->json, "Print JSON, every frame included");
  compare_command->final_callback([compare_options] { compare(*compare_options); });

  auto* sheet_command = app.add_subcommand("sheet", "A labelled contact sheet: one row of frames per clip");
  auto sheet_options = std::make_shared<SheetOptions>();
  sheet_command->add_option("OUT", sheet_options->output, "PNG to write")->required();
  sheet_command->add_option("CLIPS", sheet_options->clips, "Videos, or folders of .png frames")->required();
  sheet_command->add_option("--label", sheet_options->labels, "Text above a row, once per clip [the file's name]")
      ->take_all()
      ->expected(1);
  add_integer(*sheet_command, "--columns", sheet_options->columns, 1, 64, "Frames per row [6]");
  sheet_command->final_callback([sheet_options] { make_sheet(*sheet_options); });
}

}  // namespace fpsa::app
