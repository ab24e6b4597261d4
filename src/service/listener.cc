#include "service/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <absl/time/clock.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/logging.h"

namespace moed {
namespace {

// Where neither descriptors nor memory suffice even to turn somebody away, the kernel gets time to recover.
constexpr int kPauseMilliseconds = 100;

// Descriptors that connections leave to the rest of the process.
constexpr int64_t kOtherDescriptors = 64;

constexpr absl::Duration kTimeBetweenWarnings = absl::Minutes(1);

// The first descriptor that `max_connections` from now on do not need. A new descriptor is always the lowest that is
// free, so whoever gets a higher one came when as many were open.
int64_t DescriptorLimit(int32_t max_connections) {
  const int next = eventfd(0, EFD_CLOEXEC);
  if (next >= 0) close(next);
  const int64_t wanted = std::max(next, 0) + int64_t{max_connections};
  rlimit system;
  if (getrlimit(RLIMIT_NOFILE, &system) != 0 || system.rlim_cur == RLIM_INFINITY) return wanted;
  const int64_t possible = static_cast<int64_t>(system.rlim_cur) - kOtherDescriptors;
  if (possible < wanted) {
    MOED_LOG_WARNING("max_connections is {}; the system's limit of {} open files (ulimit -n) leaves room for {}",
                     max_connections, system.rlim_cur, std::max<int64_t>(possible - next, 0));
  }
  return std::clamp<int64_t>(possible, next + 1, wanted);
}

int OpenReserve() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

// A listening socket, or -1 with errno.
int Listen(const addrinfo& address, int32_t port) {
  const int socket = ::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol);
  if (socket < 0) return -1;
  const int on = 1;
  // A port whose last connections linger in TIME_WAIT is free. Not SO_REUSEPORT: two servers would each get some of the
  // connections.
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address.ai_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address.ai_addr)->sin_port = htons(static_cast<uint16_t>(port));
  } else if (address.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address.ai_addr)->sin6_port = htons(static_cast<uint16_t>(port));
  }
  if (bind(socket, address.ai_addr, address.ai_addrlen) == 0 && listen(socket, SOMAXCONN) == 0) return socket;
  const int error = errno;
  close(socket);
  errno = error;
  return -1;
}

int32_t PortOf(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

}  // namespace

Listener::Listener() : quit_(eventfd(0, EFD_CLOEXEC)), reserve_(OpenReserve()) {
  MOED_CHECK(quit_ >= 0, "no descriptor for a new listener: {}", std::strerror(errno));
}

Listener::~Listener() {
  Stop();
  for (int socket : sockets_) close(socket);
  close(quit_);
  if (reserve_ >= 0) close(reserve_);
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const std::string& host, int32_t port) {
  std::string name = host;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']') name = name.substr(1, name.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(name.c_str(), nullptr, &hints, &found); error != 0) {
    return InvalidArgument("host is \"{}\"; it must be an address of this machine: {}", host, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  std::unique_ptr<Listener> listener(new Listener);
  listener->port_ = port;
  for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
    const int socket = Listen(*address, listener->port_);
    if (socket >= 0) {
      listener->sockets_.push_back(socket);
      listener->port_ = PortOf(socket);
      continue;
    }
    // A name may stand for an IPv6 address on a machine that has none.
    const bool other_address_may_do = address->ai_next != nullptr || !listener->sockets_.empty();
    if (errno == EADDRINUSE || errno == EACCES || !other_address_may_do) {
      return Unavailable("cannot listen on {}:{}: {}", host, listener->port_, std::strerror(errno));
    }
  }
  if (listener->sockets_.empty()) return Unavailable("cannot listen on {}:{}: no address of it is ours", host, port);
  return listener;
}

void Listener::Start(int32_t max_connections, Handler handler) {
  descriptor_limit_ = DescriptorLimit(max_connections);
  handler_ = std::move(handler);
  thread_ = std::thread([this] { Run(); });
}

void Listener::Stop() {
  if (!thread_.joinable()) return;
  MOED_CHECK(eventfd_write(quit_, 1) == 0);
  thread_.join();
}

void Listener::Run() {
  std::vector<pollfd> waiting = {{.fd = quit_, .events = POLLIN, .revents = 0}};
  for (int socket : sockets_) waiting.push_back({.fd = socket, .events = POLLIN, .revents = 0});
  while (true) {
    if (poll(waiting.data(), waiting.size(), -1) < 0) continue;  // EINTR
    if (waiting[0].revents != 0) return;
    for (size_t i = 1; i < waiting.size(); ++i) {
      if (waiting[i].revents != 0) AcceptAll(waiting[i].fd);
    }
  }
}

void Listener::AcceptAll(int socket) {
  while (true) {
    const int connection = accept4(socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= descriptor_limit_) {
      TurnAway(connection);
      continue;
    }
    if (connection >= 0) {
      const int on = 1;
      setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // a token is sent when it is there
      handler_(connection);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return;
    const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (!exhausted) continue;  // that connection is gone already
    if (TurnOneAway(socket)) continue;
    pollfd quit = {.fd = quit_, .events = POLLIN, .revents = 0};
    poll(&quit, 1, kPauseMilliseconds);
    return;
  }
}

void Listener::TurnAway(int connection) {
  close(connection);
  const absl::Time now = absl::Now();
  if (now - last_warning_ < kTimeBetweenWarnings) return;
  last_warning_ = now;
  MOED_LOG_WARNING("connections are turned away: as many are open as max_connections or the system allows");
}

// Where not even a descriptor is left to accept with.
bool Listener::TurnOneAway(int socket) {
  if (reserve_ < 0) {
    reserve_ = OpenReserve();
    return reserve_ >= 0;
  }
  close(reserve_);
  const int connection = accept4(socket, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection >= 0) TurnAway(connection);
  reserve_ = OpenReserve();
  return connection >= 0;
}

}  // namespace moed
