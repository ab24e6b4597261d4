#include "cli/protobuf_log.h"

#include <google/protobuf/stubs/logging.h>

#include "base/logging.h"

namespace moed {

void RouteProtobufLog() {
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char* file, int line, const std::string& message) {
        MOED_LOG_DEBUG("protobuf {}:{}: {}", file, line, message);
      });
}

}  // namespace moed
