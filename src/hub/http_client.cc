#include "hub/http_client.h"

#include <absl/time/clock.h>
#include <curl/curl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/logging.h"

namespace moed {
namespace {

constexpr long kConnectSeconds = 20;
// A connection that carries next to nothing for so long is given up.
constexpr long kSilentSeconds = 30;
constexpr int kDownloadAttempts = 5;
constexpr int kTextAttempts = 2;
constexpr absl::Duration kFirstPause = absl::Milliseconds(200);
// A server that wants to be left alone for longer is not waited for so long.
constexpr absl::Duration kLongestPause = absl::Seconds(60);

using CurlHandle = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;
using CurlHeaders = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

// One request. `sink` gets the body of a successful response and returns false to break off.
class Request {
 public:
  using Sink = std::function<bool(std::string_view piece)>;

  Request(const std::string& url, const std::string& token, Sink sink)
      : url_(url),
        handle_(curl_easy_init(), curl_easy_cleanup),
        headers_(nullptr, curl_slist_free_all),
        sink_(std::move(sink)) {
    MOED_CHECK(handle_ != nullptr, "no memory for a connection");
    Set(CURLOPT_URL, url.c_str());
    Set(CURLOPT_USERAGENT, "moed");
    Set(CURLOPT_FOLLOWLOCATION, 1L);
    Set(CURLOPT_MAXREDIRS, 8L);
    Set(CURLOPT_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    Set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    Set(CURLOPT_LOW_SPEED_TIME, kSilentSeconds);
    Set(CURLOPT_NOSIGNAL, 1L);
    Set(CURLOPT_WRITEFUNCTION, &Request::OnData);
    Set(CURLOPT_WRITEDATA, this);
    if (!token.empty()) {
      // libcurl leaves it out when a redirect leads to another host.
      headers_.reset(curl_slist_append(nullptr, fmt::format("Authorization: Bearer {}", token).c_str()));
      Set(CURLOPT_HTTPHEADER, headers_.get());
    }
  }

  void ResumeFrom(uint64_t offset) { Set(CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(offset)); }

  absl::Status Run() {
    const CURLcode result = curl_easy_perform(handle_.get());
    const long code = response_code();
    if (result == CURLE_WRITE_ERROR && refused_)
      return ResourceExhausted("{}: the answer is longer than expected", url_);
    if (code >= 400) return StatusOf(code);
    // The server knows no ranges and would send all of it.
    if (result == CURLE_RANGE_ERROR)
      return absl::OutOfRangeError(fmt::format("{}: {}", url_, curl_easy_strerror(result)));
    if (result == CURLE_OK) return absl::OkStatus();
    return absl::UnavailableError(fmt::format("{}: {}", url_, curl_easy_strerror(result)));
  }

  // How long the server asks to be left alone (RFC 9110, section 10.2.3); zero where it does not.
  absl::Duration retry_after() const {
    curl_off_t seconds = 0;
    curl_easy_getinfo(handle_.get(), CURLINFO_RETRY_AFTER, &seconds);
    return absl::Seconds(seconds);
  }

  long response_code() const {
    long code = 0;
    curl_easy_getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &code);
    return code;
  }

 private:
  template <typename T>
  void Set(CURLoption option, T value) {
    curl_easy_setopt(handle_.get(), option, value);
  }

  static size_t OnData(char* data, size_t size, size_t count, void* self) {
    auto* const request = static_cast<Request*>(self);
    const size_t bytes = size * count;
    if (request->response_code() >= 300) return bytes;  // the text of an error
    if (request->sink_({data, bytes})) return bytes;
    request->refused_ = true;
    return bytes + 1;  // anything but `bytes` breaks off
  }

  absl::Status StatusOf(long code) const {
    const std::string message = fmt::format("{}: the server answered {}", url_, code);
    if (code == 401) {
      return absl::UnauthenticatedError(message + "; a gated or private model needs a token in HF_TOKEN");
    }
    if (code == 403) return absl::PermissionDeniedError(message + "; the token has no access to it");
    if (code == 404) return absl::NotFoundError(message);
    if (code == 416) return absl::OutOfRangeError(message);
    if (code == 429) return absl::UnavailableError(message + ": too many requests");
    if (code >= 500) return absl::UnavailableError(message);
    return absl::FailedPreconditionError(message);
  }

  std::string url_;
  CurlHandle handle_;
  CurlHeaders headers_;
  Sink sink_;
  bool refused_ = false;
};

void InitCurl() {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  MOED_CHECK(initialised == CURLE_OK, "libcurl: {}", curl_easy_strerror(initialised));
}

// Calls attempt(&wait) until it gives something else than UNAVAILABLE, with growing pauses, of `wait` at least.
template <typename Attempt>
absl::Status Retry(int attempts, const Attempt& attempt) {
  absl::Duration pause = kFirstPause;
  for (int i = 1;; ++i, pause *= 2) {
    absl::Duration wait;
    absl::Status status = attempt(&wait);
    if (!absl::IsUnavailable(status) || i == attempts) return status;
    wait = std::min(std::max(wait, pause), kLongestPause);
    MOED_LOG_WARNING("{}; trying again in {}", Message(status), absl::FormatDuration(wait));
    absl::SleepFor(wait);
  }
}

absl::Status DownloadOnce(const std::string& url, const std::string& token, const std::string& path, uint64_t size,
                          const HttpClient::Progress& progress, absl::Duration* retry_after) {
  std::error_code ignored;
  uint64_t have = std::filesystem::exists(path, ignored) ? std::filesystem::file_size(path, ignored) : 0;
  if (have == size && size > 0) return absl::OkStatus();
  if (have > size) have = 0;
  const std::unique_ptr<std::FILE, decltype(&std::fclose)> file(std::fopen(path.c_str(), have > 0 ? "r+b" : "wb"),
                                                                std::fclose);
  if (file == nullptr) return absl::ErrnoToStatus(errno, fmt::format("{}: cannot write", path));
  std::fseek(file.get(), 0, SEEK_END);
  bool disk_full = false;
  Request request(url, token, [&](std::string_view piece) {
    if (piece.size() > size - have) return false;
    disk_full = std::fwrite(piece.data(), 1, piece.size(), file.get()) != piece.size();
    have += piece.size();
    if (progress) progress(have);
    return !disk_full;
  });
  if (have > 0) request.ResumeFrom(have);
  absl::Status status = request.Run();
  *retry_after = request.retry_after();
  disk_full = std::fflush(file.get()) != 0 || disk_full;
  if (disk_full) return ResourceExhausted("{}: cannot write; is the disk full?", path);
  if (absl::IsOutOfRange(status)) {  // what is there cannot be gone on with
    std::filesystem::resize_file(path, 0, ignored);
    return absl::UnavailableError(std::string(Message(status)));
  }
  if (status.ok() && have < size)
    return absl::UnavailableError(fmt::format("{}: broke off at byte {} of {}", url, have, size));
  return status;
}

}  // namespace

absl::StatusOr<std::string> HttpClient::GetText(const std::string& url, size_t max_bytes) const {
  InitCurl();
  std::string body;
  MOED_RETURN_IF_ERROR(Retry(kTextAttempts, [&](absl::Duration* retry_after) {
    body.clear();
    Request request(url, token_, [&](std::string_view piece) {
      if (piece.size() > max_bytes - body.size()) return false;
      body += piece;
      return true;
    });
    absl::Status status = request.Run();
    *retry_after = request.retry_after();
    return status;
  }));
  return body;
}

absl::Status HttpClient::Download(const std::string& url, const std::string& path, uint64_t size,
                                  const Progress& progress) const {
  InitCurl();
  return Retry(kDownloadAttempts, [&](absl::Duration* retry_after) {
    return DownloadOnce(url, token_, path, size, progress, retry_after);
  });
}

}  // namespace moed
