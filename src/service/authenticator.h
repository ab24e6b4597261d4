// Who is calling.
#ifndef MOED_SERVICE_AUTHENTICATOR_H_
#define MOED_SERVICE_AUTHENTICATOR_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace moed {

// What a call shows of its caller. The views live as long as the call.
struct CallerEvidence {
  std::string_view peer;                         // "ipv4:10.0.0.7:51234"
  std::string_view authorization;                // the metadata entry of that name, "" if none
  std::vector<std::string_view> tls_identities;  // names in the verified client certificate
};

// Tells the tenant of a call: from who calls, never from what the request says. Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;

  // The tenant's name. UNAUTHENTICATED when credentials are missing or wrong, PERMISSION_DENIED when the caller is
  // known but may not use this server.
  virtual absl::StatusOr<std::string> Authenticate(const CallerEvidence& caller) const = 0;
};

// For a server that everyone who can reach it may use: everyone is the tenant "default".
class OpenAuthenticator final : public Authenticator {
 public:
  absl::StatusOr<std::string> Authenticate(const CallerEvidence& caller) const override;
};

}  // namespace moed

#endif  // MOED_SERVICE_AUTHENTICATOR_H_
