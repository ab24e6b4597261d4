#include "checkpoint/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/checkpoint/safetensors_bytes.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::LittleEndian64;
using testing::SafetensorsBytes;

TEST(SafetensorsHeader, ReadsWhatTheFormatAllows) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"data_offsets":[4,12],"shape":[2],"dtype":"F32","note":{"x":[1,{}]}},)"
      R"("a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},"empty":{"dtype":"I64","shape":[0,7],)"
      R"("data_offsets":[12,12]},"scalar":{"dtype":"F8_E4M3","shape":[],"data_offsets":[12,13]}}   )";
  const auto parsed = ParseSafetensorsHeader(SafetensorsBytes(header, 13));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->metadata.at("format"), "pt");
  ASSERT_EQ(parsed->entries.size(), 4u);
  EXPECT_EQ(parsed->entries[0].name, "a");
  EXPECT_EQ(parsed->entries[0].dtype, DType::kBF16);
  EXPECT_THAT(parsed->entries[0].shape, ElementsAre(2, 1));
  EXPECT_EQ(parsed->entries[0].offset, 8 + header.size());
  EXPECT_EQ(parsed->entries[1].name, "b");
  EXPECT_EQ(parsed->entries[2].name, "empty");
  EXPECT_EQ(parsed->entries[3].dtype, std::nullopt);
  EXPECT_EQ(parsed->entries[3].dtype_name, "F8_E4M3");
}

struct BadFile {
  const char* what;
  std::string bytes;
  std::vector<const char*> message;  // each must occur
};

// A header with one tensor "w" of these members.
std::string One(const std::string& members) { return R"({"w":{)" + members + "}}"; }

std::vector<BadFile> BadFiles() {
  const std::string good = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string two = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],)";
  return {
      {"empty file", "", {"0 bytes", "8 bytes of header length"}},
      {"cut in the length", std::string("\x08\0\0", 3), {"8 bytes of header length"}},
      {"length beyond the file", LittleEndian64(500) + good, {"header length is 500", "truncated"}},
      {"length of 2^64-1", LittleEndian64(UINT64_MAX) + good, {"18446744073709551615", "at most 100000000"}},
      {"length over the limit", LittleEndian64(100'000'001) + good, {"100000001", "at most 100000000"}},
      {"header of no bytes", SafetensorsBytes("", 0), {"begin with '{'"}},
      {"array for a header", SafetensorsBytes("[1]", 0), {"begin with '{'"}},
      {"not JSON", SafetensorsBytes("{hello}", 0), {"not JSON at byte"}},
      {"JSON cut short", SafetensorsBytes(good.substr(0, 30), 8), {"not JSON at byte"}},
      {"text after the JSON", SafetensorsBytes(good + "x", 8), {"not JSON at byte"}},
      {"not UTF-8", SafetensorsBytes("{\"\xff\":1}", 0), {"not JSON at byte"}},
      {"tensor is a number", SafetensorsBytes(R"({"w":1})", 0), {"\"w\" is 1", "must be an object"}},
      {"metadata not strings", SafetensorsBytes(R"({"__metadata__":{"n":1}})", 0), {"__metadata__ \"n\"", "a string"}},
      {"metadata twice", SafetensorsBytes(R"({"__metadata__":{},"__metadata__":{}})", 0), {"\"__metadata__\" twice"}},
      {"name twice",
       SafetensorsBytes(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                        R"("w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                        8),
       {"\"w\" twice"}},
      {"key twice", SafetensorsBytes(One(R"("dtype":"F32","dtype":"F32")"), 0), {"\"w\"", "\"dtype\" occurs twice"}},
      {"no dtype", SafetensorsBytes(One(R"("shape":[1],"data_offsets":[0,4])"), 4), {"\"w\"", "dtype is missing"}},
      {"no shape", SafetensorsBytes(One(R"("dtype":"F32","data_offsets":[0,4])"), 4), {"\"w\"", "shape is missing"}},
      {"no offsets", SafetensorsBytes(One(R"("dtype":"F32","shape":[1])"), 4), {"\"w\"", "data_offsets is missing"}},
      {"unknown dtype",
       SafetensorsBytes(One(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), 4),
       {"\"w\"", "dtype \"F33\" is unknown"}},
      {"dtype is a number", SafetensorsBytes(One(R"("dtype":3)"), 0), {"\"w\"", "dtype is 3", "a string"}},
      {"shape is a word", SafetensorsBytes(One(R"("shape":"big")"), 0), {"\"w\"", "shape is \"big\"", "an array"}},
      {"shape is an object", SafetensorsBytes(One(R"("shape":{})"), 0), {"\"w\"", "shape is an object", "an array"}},
      {"negative dimension",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[2,-3],"data_offsets":[0,8])"), 8),
       {"\"w\"", "shape[1] is -3", "from 0 to 2^63-1"}},
      {"broken dimension", SafetensorsBytes(One(R"("shape":[1.5])"), 8), {"\"w\"", "shape[0] is 1.5"}},
      {"dimension of 2^63",
       SafetensorsBytes(One(R"("shape":[9223372036854775808])"), 8),
       {"shape[0] is 9223372036854775808"}},
      {"dimension of 2^70",
       SafetensorsBytes(One(R"("shape":[1180591620717411303424])"), 8),
       {"shape[0] is 1180591620717411303424"}},
      {"nested shape", SafetensorsBytes(One(R"("shape":[[1]])"), 8), {"\"w\"", "shape[0] is an array"}},
      {"shape overflows",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0),
       {"\"w\"", "[4294967296, 4294967296]", "no whole number of bytes"}},
      {"shape overflows behind a zero",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"), 0),
       {"no whole number of bytes"}},
      {"half a byte",
       SafetensorsBytes(One(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), 1),
       {"\"w\"", "no whole number of bytes"}},
      {"33 dimensions",
       SafetensorsBytes(One(R"("shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1])"), 0),
       {"\"w\"", "more than 32 dimensions"}},
      {"one offset",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[2],"data_offsets":[8])"), 8),
       {"\"w\"", "[begin, end]"}},
      {"three offsets", SafetensorsBytes(One(R"("data_offsets":[0,8,9])"), 8), {"\"w\"", "[begin, end]"}},
      {"negative offset", SafetensorsBytes(One(R"("data_offsets":[-8,0])"), 8), {"\"w\"", "data_offsets[0] is -8"}},
      {"offsets reversed",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8),
       {"\"w\"", "[8, 0]", "must not come before"}},
      {"bytes too few",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4),
       {"\"w\"", "hold 4 bytes", "[2] of F32 needs 8"}},
      {"bytes too many",
       SafetensorsBytes(One(R"("dtype":"BF16","shape":[2],"data_offsets":[0,8])"), 8),
       {"\"w\"", "hold 8 bytes", "[2] of BF16 needs 4"}},
      {"offsets at 2^64",
       SafetensorsBytes(One(R"("dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615])"),
                        8),
       {"\"w\"", "18446744073709551614", "inside the file"}},
      {"offsets outside",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[2],"data_offsets":[100,108])"), 8),
       {"\"w\"", "[100, 108]", "8 bytes of data"}},
      {"data cut short", SafetensorsBytes(good, 7), {"\"w\"", "[0, 8]", "7 bytes of data", "truncated"}},
      {"data too long", SafetensorsBytes(good, 9), {"9 bytes of data", "ends at 8", "no holes"}},
      {"hole at the start",
       SafetensorsBytes(One(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8),
       {"\"w\"", "is 4", "no holes"}},
      {"hole between", SafetensorsBytes(two + R"("data_offsets":[12,20]}})", 20), {"\"b\"", "is 12", "ends at 8"}},
      {"overlap", SafetensorsBytes(two + R"("data_offsets":[4,12]}})", 12), {"\"b\"", "\"a\"", "must not overlap"}},
      {"same bytes twice", SafetensorsBytes(two + R"("data_offsets":[0,8]}})", 8), {"must not overlap"}},
  };
}

TEST(SafetensorsHeader, NamesWhatIsWrong) {
  for (const BadFile& file : BadFiles()) {
    const auto parsed = ParseSafetensorsHeader(file.bytes);
    ASSERT_FALSE(parsed.ok()) << file.what;
    EXPECT_TRUE(absl::IsInvalidArgument(parsed.status())) << file.what << ": " << parsed.status();
    for (const char* part : file.message) {
      EXPECT_THAT(std::string(Message(parsed.status())), HasSubstr(part)) << file.what;
    }
  }
}

TEST(SafetensorsHeader, MessagesStayShort) {
  const std::string name(1'000'000, 'x');
  for (const std::string& header : {"{\"" + name + "\":1}", "{\"" + name, R"({"w":{"dtype":")" + name + "\"}}"}) {
    const auto parsed = ParseSafetensorsHeader(SafetensorsBytes(header, 0));
    ASSERT_FALSE(parsed.ok());
    EXPECT_LT(Message(parsed.status()).size(), 1000u);
  }
}

// Deep nesting where it does not matter is skipped without recursion, and where it matters refused.
TEST(SafetensorsHeader, DeepNesting) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  EXPECT_TRUE(
      ParseSafetensorsHeader(SafetensorsBytes(One(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":)" + deep), 1))
          .ok());
  EXPECT_FALSE(ParseSafetensorsHeader(SafetensorsBytes(One(R"("shape":)" + deep), 1)).ok());
}

// Whatever is done to a good file, the parser answers with an error or with entries that lie inside the file.
TEST(SafetensorsHeader, MutatedFilesNeverEscape) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"model.a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("model.b.weight":{"dtype":"BF16","shape":[5],"data_offsets":[24,34]},)"
      R"("c":{"dtype":"I64","shape":[],"data_offsets":[34,42]}})";
  const std::string good = SafetensorsBytes(header, 42);
  ASSERT_TRUE(ParseSafetensorsHeader(good).ok());
  constexpr char kAlphabet[] = "0123456789-+.eE[]{},:\"\\ \xff";
  std::mt19937_64 random(20240607);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < edits && !bytes.empty(); ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 6) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = kAlphabet[random() % (sizeof(kAlphabet) - 1)];
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 3:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
          break;
        case 4:
          bytes.resize(at);
          break;
        default:
          bytes[random() % std::min<size_t>(8, bytes.size())] ^= static_cast<char>(1 << (random() % 8));
      }
    }
    const auto parsed = ParseSafetensorsHeader(bytes);
    if (!parsed.ok()) {
      ASSERT_FALSE(Message(parsed.status()).empty());
      continue;
    }
    ++accepted;
    for (const SafetensorsEntry& entry : parsed->entries) {
      ASSERT_LE(entry.offset, bytes.size());
      ASSERT_LE(entry.num_bytes, bytes.size() - entry.offset);
    }
  }
  EXPECT_GT(accepted, 0) << "edits of names and data must pass";
}

}  // namespace
}  // namespace moed
