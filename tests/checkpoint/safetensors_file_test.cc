#include "checkpoint/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "tests/checkpoint/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsBytes;
using ::testing::StartsWith;
using testing::TempDir;

TEST(SafetensorsFile, ReadsWhatTheWriterWrote) {
  const TempDir dir;
  std::vector<float> floats(35);
  std::iota(floats.begin(), floats.end(), -3.5f);
  const std::vector<int8_t> bytes = {1, -2, 3};
  std::vector<BFloat16> halves(7);
  for (int i = 0; i < 7; ++i) halves[i] = ToBFloat16(0.1f * static_cast<float>(i));
  const std::vector<int64_t> ids = {1, -1, 1LL << 40};
  const std::string path = dir.File("model.safetensors");
  // A name that needs escapes; odd sizes before larger elements.
  ASSERT_TRUE(WriteSafetensors(path,
                               {{"bytes", TensorView::Of(bytes.data(), {3})},
                                {"halves", TensorView::Of(halves.data(), {7})},
                                {"a \"quoted\" 名\n", TensorView::Of(floats.data(), {5, 7})},
                                {"ids", TensorView::Of(ids.data(), {3})},
                                {"scalar", TensorView::Of(floats.data(), {})},
                                {"empty", TensorView::Of(floats.data(), {0, 4})}},
                               {{"format", "pt"}})
                  .ok());
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_EQ((*file)->entries().size(), 6u);
  const auto Check = [&](std::string_view name, const TensorView& expected) {
    const auto view = (*file)->Get(name);
    ASSERT_TRUE(view.ok()) << view.status();
    ASSERT_EQ(view->ToString(), expected.ToString());
    EXPECT_TRUE(view->IsContiguous());
    EXPECT_EQ(std::memcmp(view->data, expected.data, expected.num_bytes()), 0) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % DTypeSize(view->dtype), 0u) << name;
  };
  Check("bytes", TensorView::Of(bytes.data(), {3}));
  Check("halves", TensorView::Of(halves.data(), {7}));
  Check("a \"quoted\" 名\n", TensorView::Of(floats.data(), {5, 7}));
  Check("ids", TensorView::Of(ids.data(), {3}));
  Check("scalar", TensorView::Of(floats.data(), {}));
  Check("empty", TensorView::Of(floats.data(), {0, 4}));
  // Released tensors come back.
  (*file)->Release("a \"quoted\" 名\n");
  (*file)->Release("no such tensor");
  Check("a \"quoted\" 名\n", TensorView::Of(floats.data(), {5, 7}));
}

TEST(SafetensorsFile, CrookedTensorsAreAligned) {
  const TempDir dir;
  const std::string header = R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                             R"("b":{"dtype":"F32","shape":[2],"data_offsets":[3,11]}})";
  const auto file = SafetensorsFile::Open(dir.Write("x.safetensors", SafetensorsBytes(header, 11)));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto first = (*file)->Get("b");
  const auto again = (*file)->Get("b");
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(first->data, again->data);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first->data) % sizeof(float), 0u);
  const uint8_t expected[] = {3, 4, 5, 6, 7, 8, 9, 10};
  EXPECT_EQ(std::memcmp(first->data, expected, sizeof(expected)), 0);
}

TEST(SafetensorsFile, SaysWhichFileAndTensor) {
  const TempDir dir;
  const std::string bad = dir.Write("bad.safetensors", "not one");
  const auto unreadable = SafetensorsFile::Open(bad);
  EXPECT_TRUE(absl::IsInvalidArgument(unreadable.status()));
  EXPECT_THAT(std::string(Message(unreadable.status())), StartsWith(bad + ": "));
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(dir.File("none")).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SafetensorsFile::Open(dir.path()).status()));

  const std::string header = R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"U8","shape":[1,1,1,1,1],"data_offsets":[8,9]}})";
  const auto file = SafetensorsFile::Open(dir.Write("x.safetensors", SafetensorsBytes(header, 9)));
  ASSERT_TRUE(file.ok()) << "tensors that we do not take may lie unused in a file";
  const auto type = (*file)->Get("a").status();
  EXPECT_TRUE(absl::IsUnimplemented(type));
  EXPECT_THAT(std::string(Message(type)), HasSubstr("x.safetensors: tensor \"a\" is of type F64"));
  const auto rank = (*file)->Get("b").status();
  EXPECT_TRUE(absl::IsUnimplemented(rank));
  EXPECT_THAT(std::string(Message(rank)), HasSubstr("\"b\" has 5 dimensions"));
  EXPECT_TRUE(absl::IsNotFound((*file)->Get("c").status()));
}

// Bytes of `path` that are in this process's memory, from /proc/self/smaps.
size_t ResidentBytes(const std::string& path) {
  std::ifstream smaps("/proc/self/smaps");
  size_t total = 0;
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < line.find(' ')) ours = line.ends_with(path);  // a mapping's first line
    if (ours && line.starts_with("Rss:")) total += std::stoul(line.substr(4)) << 10;
  }
  return total;
}

TEST(SafetensorsFile, ReleaseGivesMemoryBack) {
  const TempDir dir;
  const int64_t count = 4 << 20;
  const std::vector<float> values(count, 1.0f);
  const std::string path = dir.File("big.safetensors");
  ASSERT_TRUE(WriteSafetensors(path, {{"w", TensorView::Of(values.data(), {count})}}).ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  const auto view = (*file)->Get("w");
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(std::accumulate(view->As<float>(), view->As<float>() + count, 0.0), count);
  EXPECT_GT(ResidentBytes(path), size_t{15} << 20);
  (*file)->Release("w");
  EXPECT_LT(ResidentBytes(path), size_t{1} << 20);
}

TEST(SafetensorsWriter, RefusesWhatWasNotDeclared) {
  const TempDir dir;
  const std::string path = dir.File("w.safetensors");
  const std::vector<float> values(6);
  using Spec = SafetensorsWriter::Spec;
  EXPECT_TRUE(absl::IsInvalidArgument(
      SafetensorsWriter::Create(path, {Spec{"a", DType::kF32, {2}}, Spec{"a", DType::kF32, {2}}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SafetensorsWriter::Create(path, {Spec{"a", DType::kF32, {-2}}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SafetensorsWriter::Create(path, {Spec{"\xff", DType::kF32, {2}}}).status()));
  EXPECT_TRUE(absl::IsNotFound(SafetensorsWriter::Create(dir.File("no/folder"), {}).status()));
  {
    auto writer = SafetensorsWriter::Create(path, {Spec{"a", DType::kF32, {2, 3}}, Spec{"b", DType::kF32, {1}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(absl::IsInvalidArgument((*writer)->Write("a", TensorView::Of(values.data(), {3, 2}))));
    EXPECT_TRUE(absl::IsInvalidArgument((*writer)->Write("c", TensorView::Of(values.data(), {1}))));
    EXPECT_TRUE((*writer)->Write("a", TensorView::Of(values.data(), {2, 3})).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition((*writer)->Write("a", TensorView::Of(values.data(), {2, 3}))));
    const absl::Status unfinished = (*writer)->Finish();
    EXPECT_TRUE(absl::IsFailedPrecondition(unfinished));
    EXPECT_THAT(std::string(Message(unfinished)), HasSubstr("\"b\" was never written"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
}

}  // namespace
}  // namespace moed
