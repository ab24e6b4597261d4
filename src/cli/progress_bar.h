// What a person sees while a model loads.
#ifndef MOED_CLI_PROGRESS_BAR_H_
#define MOED_CLI_PROGRESS_BAR_H_

#include <string>
#include <string_view>

namespace moed {

// One line on stderr, drawn over and over, and wiped at the end; nothing at all where stderr is no terminal. Used by
// one thread.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();

  // `fraction` in [0, 1].
  void Update(double fraction, std::string_view what);

 private:
  const bool visible_;
  std::string line_;  // as it was drawn last
};

}  // namespace moed

#endif  // MOED_CLI_PROGRESS_BAR_H_
