#include "cli/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace moed {

ProgressBar::ProgressBar() : visible_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (!line_.empty()) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Update(double fraction, std::string_view what) {
  if (!visible_) return;
  constexpr int kWidth = 40;
  fraction = std::clamp(fraction, 0.0, 1.0);
  const int filled = static_cast<int>(fraction * kWidth);
  std::string line = fmt::format("[{:#>{}}{:.>{}}] {:3.0f}% {}", "", filled, "", kWidth - filled, fraction * 100, what);
  if (line == line_) return;
  line_ = std::move(line);
  fmt::print(stderr, "\r\033[K{}", line_);
  std::fflush(stderr);
}

}  // namespace moed
