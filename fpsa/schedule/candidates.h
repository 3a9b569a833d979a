// Candidates: the settings among which a calibration chooses.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fpsa/schedule/schedule.h"

namespace fpsa::schedule {

/// One setting that a phase, a layer or a head may be given.
struct Candidate {
  Grid granularity;
  Grid window = pattern::kFullWindow;  // in tiles
  Quant quant = Quant::kE4m3;
  bool operator==(const Candidate&) const = default;
};

/// Candidates of one tile.
struct CandidateList {
  Grid tile;
  std::vector<Candidate> candidates;
  bool operator==(const CandidateList&) const = default;
};

/// The largest tile of extents 6, 3, 2 along t and 8, 4, 2 along y and x that leaves at least 3 tiles on each axis,
/// so that windows have something to choose from; 2 on an axis too short for that. (6,8,8) on Wan2.1's own grids.
Grid default_tile(const Grid& grid);

/// How finely candidates are given out: to phases, or within them to every layer or head.
enum class Detail { kPhases, kLayers, kHeads };

/// Windows on a ladder of densities (all, 1/2, 1/4, 1/8), in two shapes each, times three granularities (token, tile,
/// two tiles per axis). For a density the windows considered are those whose share of the tiles is
/// closest to it: the most even one, and the most even one of those that see every tile along t. None is one tile wide
/// on an axis of several: for a phase or a layer its tiles would exchange nothing, which the error of single attention
/// outputs does not show (on models/tiny all of space and one of three tiles of time, (1,4,4), has less error than any
/// other window of up to twice its density). A list of one's own may hold such windows.
///
/// Heads share a layer, and what one cuts another connects. So for kHeads there are also the six windows that see some
/// axes whole and one tile of the others, in granularity of a tile: within a tile of time, along a row or a column,
/// through time alone, and the planes of time and one axis. On models/tiny they take the error of a density of 0.25
/// from 0.43 to 0.28 (docs/study.md). Sparse VideoGen (arXiv 2502.01776, section 3) calls two of them spatial and
/// temporal heads.
///   Edges     on a small grid several of these are the same work; each is listed once
CandidateList default_candidates(const Grid& grid, const Grid& tile, Quant quant, Detail detail = Detail::kPhases);

/// Visible pairs / L^2 of the candidate's window.
///   Errors    those of pattern::sliding_tile
double density_of(const Candidate& candidate, const Grid& grid, const Grid& tile);

/// "granularity (3,4,4), window all, e4m3".
std::string to_string(const Candidate& candidate);

/// Checks that the list is not empty, that every candidate could be a phase, and that none appears twice.
///   Errors    the candidate's number from 1, the key, what was expected and received
void validate(const CandidateList& list);

/// Checks that every candidate can run on this grid, as check_for_grid does for a schedule.
void check_for_grid(const CandidateList& list, const Grid& grid);

/// Reads a list. Keys: tile, and [[candidate]] tables with granularity, window, quant as in a schedule's [[phase]].
///   Edges     tile has the default (6,8,8)
///   Errors    as parse_toml
CandidateList parse_candidates(std::string_view text, std::string_view origin);

}  // namespace fpsa::schedule
