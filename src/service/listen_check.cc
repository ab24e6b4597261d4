#include "service/listen_check.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace moed {
namespace {

struct Socket {
  explicit Socket(int of) : descriptor(of) {}
  ~Socket() {
    if (descriptor >= 0) close(descriptor);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  const int descriptor;
};

absl::Status TryListen(const addrinfo& address) {
  const Socket socket(::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol));
  if (socket.descriptor < 0) return Unavailable("{}", std::strerror(errno));
  const int on = 1;
  // As gRPC does: a port whose last connections linger in TIME_WAIT is free.
  setsockopt(socket.descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(socket.descriptor, address.ai_addr, address.ai_addrlen) != 0 || listen(socket.descriptor, 1) != 0) {
    return Unavailable("{}", std::strerror(errno));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCanListen(const std::string& host, int32_t port) {
  std::string name = host;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']') name = name.substr(1, name.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(name.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    return InvalidArgument("host is \"{}\"; it must be an address of this machine: {}", host, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  return Annotate(TryListen(*addresses), fmt::format("cannot listen on {}:{}", host, port));
}

}  // namespace moed
