#include "serving/request_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <sstream>
#include <string>

#include "base/utf8.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

class RequestLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = spdlog::default_logger();
    const auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(log_);
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink));
  }
  void TearDown() override { spdlog::set_default_logger(before_); }

  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> before_;
};

// Wherever the cut falls in a character.
TEST_F(RequestLogTest, LongMessagesAreCutBetweenCharacters) {
  for (const std::string prefix : {"", "a", "aa"}) {
    log_.str("");
    std::string message = prefix;
    for (int i = 0; i < 1000; ++i) message += "世";
    LogRefusal("Generate", "tenant", "peer", absl::NotFoundError(message));
    EXPECT_THAT(log_.str(), HasSubstr("status=NOT_FOUND message=\"" + prefix + "世"));
    EXPECT_THAT(log_.str(), HasSubstr(fmt::format("… ({} bytes)", message.size())));
    EXPECT_LT(log_.str().size(), 700u);
    EXPECT_EQ(FindInvalidUtf8(log_.str()), std::string_view::npos);
  }
}

TEST_F(RequestLogTest, AMessageMakesNoLinesOfItsOwn) {
  LogRefusal("Generate", "tenant", "peer", absl::InvalidArgumentError("a \"b\"\nrequest id=1"));
  EXPECT_THAT(log_.str(), HasSubstr(R"(message="a \"b\"\nrequest id=1")"));
}

}  // namespace
}  // namespace moed
