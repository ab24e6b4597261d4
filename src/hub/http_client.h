// Downloads over HTTP and HTTPS, by libcurl.
#ifndef MOED_HUB_HTTP_CLIENT_H_
#define MOED_HUB_HTTP_CLIENT_H_

#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"

namespace moed {

// Follows redirects; a token goes to the first host only. Proxies come from the usual environment variables.
// Thread-safe.
class HttpClient {
 public:
  // `token`: sent as "Authorization: Bearer TOKEN" where it is not empty.
  explicit HttpClient(std::string token) : token_(std::move(token)) {}

  // The body of a response of at most max_bytes. NOT_FOUND for 404; UNAUTHENTICATED for 401 and PERMISSION_DENIED for
  // 403; UNAVAILABLE when the server cannot be reached, or answers 5xx or 429 again after the pause that it asks for (a
  // minute at most); RESOURCE_EXHAUSTED for a longer body.
  absl::StatusOr<std::string> GetText(const std::string& url, size_t max_bytes) const;

  // Told of the bytes that are there so far.
  using Progress = std::function<void(uint64_t bytes)>;

  // Downloads to the file `path` and goes on from its end where it holds a part already; where the server knows no
  // ranges, from the start. A connection that breaks off is taken up again a few times. Errors as above, and RESOURCE_
  // EXHAUSTED when the body is longer than `size`.
  absl::Status Download(const std::string& url, const std::string& path, uint64_t size, const Progress& progress) const;

 private:
  std::string token_;
};

}  // namespace moed

#endif  // MOED_HUB_HTTP_CLIENT_H_
