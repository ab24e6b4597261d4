#include "cli/stop_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/logging.h"

namespace moed {

StopSignals::StopSignals(std::function<void(int)> on_signal) : on_signal_(std::move(on_signal)) {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  MOED_CHECK(pthread_sigmask(SIG_BLOCK, &stop, nullptr) == 0);
  signals_ = signalfd(-1, &stop, SFD_CLOEXEC);
  quit_ = eventfd(0, EFD_CLOEXEC);
  MOED_CHECK(signals_ >= 0 && quit_ >= 0, "no descriptors for signals: {}", errno);
  thread_ = std::thread([this] { Run(); });
}

StopSignals::~StopSignals() {
  MOED_CHECK(eventfd_write(quit_, 1) == 0);
  thread_.join();
  close(signals_);
  close(quit_);
}

void StopSignals::Run() {
  for (int count = 0;;) {
    std::array<pollfd, 2> fds = {pollfd{signals_, POLLIN, 0}, pollfd{quit_, POLLIN, 0}};
    if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) == sizeof(info)) on_signal_(++count);
  }
}

}  // namespace moed
