// The sockets on which the server listens.
#ifndef MOED_SERVICE_LISTENER_H_
#define MOED_SERVICE_LISTENER_H_

#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"

namespace moed {

// Accepts connections in a thread of its own and hands them on. gRPC's own listener stops for good when the process has
// no descriptor left for a connection, so that a crowd of clients could make a server deaf; this one turns the ones
// that are too many away at once and goes on. It also knows why an address cannot be listened on.
class Listener {
 public:
  // Takes the descriptor of a connection: non-blocking, closed by the taker.
  using Handler = std::function<void(int connection)>;

  // Binds to every address of `host`: a name, an IPv4 address, or an IPv6 address in brackets; port 0 picks a free one.
  // UNAVAILABLE with the system's reason (the port is in use); INVALID_ARGUMENT when the host does not resolve.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const std::string& host, int32_t port);
  // Stops, and closes the sockets.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int32_t port() const { return port_; }

  // Begins to accept; once. A connection beyond `max_connections` open at once is closed as soon as it comes, and one
  // that would take the last descriptors of the process likewise. Counted are all descriptors that the process opens
  // from now on, since only the taker knows when a connection ends.
  void Start(int32_t max_connections, Handler handler);
  // Accepts no more; returns when no handler runs.
  void Stop();

 private:
  Listener();

  void Run();
  void AcceptAll(int socket);
  void TurnAway(int connection);
  bool TurnOneAway(int socket);

  std::vector<int> sockets_;
  int32_t port_ = 0;
  int quit_ = -1;                 // eventfd
  int reserve_ = -1;              // given up for a moment, so that a connection can be accepted and closed
  int64_t descriptor_limit_ = 0;  // the first descriptor that a connection must not have
  absl::Time last_warning_ = absl::InfinitePast();
  Handler handler_;
  std::thread thread_;
};

}  // namespace moed

#endif  // MOED_SERVICE_LISTENER_H_
