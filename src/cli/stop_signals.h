// SIGTERM and SIGINT as calls of a function.
#ifndef MOED_CLI_STOP_SIGNALS_H_
#define MOED_CLI_STOP_SIGNALS_H_

#include <csignal>
#include <functional>
#include <thread>

namespace moed {

// Make it before any other thread starts: it blocks the signals for those to come, and takes them in a thread of its
// own, where anything may be done, unlike in a signal handler. They stay blocked at the end, when the program is about
// to: one that comes late must not turn an orderly end into a death by signal.
class StopSignals {
 public:
  // `on_signal` gets the number of signals so far: 1, 2, …
  explicit StopSignals(std::function<void(int count)> on_signal);
  ~StopSignals();

 private:
  void Run();

  const std::function<void(int)> on_signal_;
  int signals_ = -1;  // signalfd
  int quit_ = -1;     // eventfd
  std::thread thread_;
};

}  // namespace moed

#endif  // MOED_CLI_STOP_SIGNALS_H_
