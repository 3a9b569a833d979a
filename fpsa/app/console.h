// Standard output and error of a program whose reader may go away: fpsa generate ... | head.
#pragma once

namespace fpsa::app {

/// From now on a closed pipe ends no run: what is printed to it is dropped and the work goes on. Standard streams that
/// are not open at all read and write nothing, so that no file of the run takes their place.
void prepare_console();

/// Flushes standard output.
///   Errors    fpsa::Error when text was lost for another reason than a reader that went away (a full disk)
void finish_console();

}  // namespace fpsa::app
