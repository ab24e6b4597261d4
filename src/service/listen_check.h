// Why an address cannot be listened on.
#ifndef MOED_SERVICE_LISTEN_CHECK_H_
#define MOED_SERVICE_LISTEN_CHECK_H_

#include <cstdint>
#include <string>

#include "base/status.h"

namespace moed {

// Binds a socket to the address for a moment. UNAVAILABLE with the system's reason (the port is in use, the address is
// not of this machine); INVALID_ARGUMENT when `host` (a name, an IPv4 address, or an IPv6 address in brackets) does not
// resolve.
absl::Status CheckCanListen(const std::string& host, int32_t port);

}  // namespace moed

#endif  // MOED_SERVICE_LISTEN_CHECK_H_
