// Logging through spdlog, and the check that stops the program on a bug of ours.
#ifndef MOED_BASE_LOGGING_H_
#define MOED_BASE_LOGGING_H_

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <string_view>

namespace moed {

// Sends the log to stderr with time, level and thread. `level` is one of trace, debug, info, warning, error, off;
// returns false, and changes nothing, when it is another word. Call once, before other threads start.
bool InitLogging(std::string_view level);

// Logs `message` with the place, flushes the log and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace moed

#define MOED_LOG_DEBUG(...) ::spdlog::debug(__VA_ARGS__)
#define MOED_LOG_INFO(...) ::spdlog::info(__VA_ARGS__)
#define MOED_LOG_WARNING(...) ::spdlog::warn(__VA_ARGS__)
#define MOED_LOG_ERROR(...) ::spdlog::error(__VA_ARGS__)

// MOED_CHECK(condition) or MOED_CHECK(condition, "format {}", value): for our own bugs only, on in every build.
#define MOED_CHECK(condition, ...)                   \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::moed::CheckFailed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)))

#endif  // MOED_BASE_LOGGING_H_
