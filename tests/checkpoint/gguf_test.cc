// GGUF: the values of its types against the gguf package, and files right and wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/gguf_file.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/gguf_types.h"
#include "checkpoint/safetensors_file.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TempDir;

TEST(GgufTypes, ValuesAreThoseOfTheGgufPackageToTheBit) {
  const auto golden = SafetensorsFile::Open("tests/golden/formats/gguf_blocks.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  int types = 0;
  for (const SafetensorsEntry& entry : (*golden)->entries()) {
    if (!entry.name.ends_with(".blocks")) continue;
    const std::string name = entry.name.substr(0, entry.name.find('.'));
    const GgufType* type = FindGgufType(name);
    if (type == nullptr || type->dequantize == nullptr) FAIL() << name;
    const TensorView blocks = *(*golden)->Get(entry.name), values = *(*golden)->Get(name + ".values");
    ASSERT_EQ(blocks.dim(1), type->block_bytes) << name;
    ASSERT_EQ(values.dim(0), blocks.dim(0) * type->block_size) << name;
    std::vector<float> actual(values.dim(0));
    std::vector<int8_t> codes(type->block_size);
    for (int64_t block = 0; block < blocks.dim(0); ++block) {
      const uint8_t* bytes = blocks.As<uint8_t>() + block * type->block_bytes;
      float* out = actual.data() + block * type->block_size;
      type->dequantize(bytes, out);
      if (type->read_integers == nullptr) continue;
      float scale;
      type->read_integers(bytes, codes.data(), &scale);
      for (uint32_t i = 0; i < type->block_size; ++i) EXPECT_EQ(scale * static_cast<float>(codes[i]), out[i]) << name;
    }
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(values.As<float>()[i]))
          << name << ", element " << i << ": " << actual[i] << " for " << values.As<float>()[i];
    }
    ++types;
  }
  EXPECT_EQ(types, 16);
}

std::string Floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

GgufWriter GoodFile(uint32_t version = 3) {
  GgufWriter writer(version);
  writer.AddString("general.architecture", "llama");
  writer.AddInt("llama.block_count", 2);
  writer.AddFloat("llama.rope.freq_base", 10000.0f);
  writer.AddBool("tokenizer.ggml.add_bos_token", true);
  writer.AddStrings("tokenizer.ggml.tokens", {"a", "", "ccc"});
  writer.AddArray<float>("tokenizer.ggml.scores", {0.0f, -1.5f, 2.0f});
  writer.AddArray<int32_t>("tokenizer.ggml.token_type", {1, 2, 3});
  writer.AddTensor("stack", {2, 2, 3}, 0, Floats({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  writer.AddTensor("vector", {3}, 0, Floats({7, 8, 9}));
  writer.AddTensor("quantised", {2, 32}, 8, std::string(2 * 34, '\1'));
  return writer;
}

TEST(GgufFile, ReadsMetadataAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    const TempDir dir;
    const auto file = GgufFile::Open(dir.Write("model.gguf", GoodFile(version).Bytes()));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(*(*file)->String("general.architecture"), "llama");
    EXPECT_EQ(*(*file)->Int("llama.block_count"), 2);
    EXPECT_EQ(*(*file)->Float("llama.block_count"), 2.0);
    EXPECT_EQ(*(*file)->Float("llama.rope.freq_base"), 10000.0);
    EXPECT_EQ(*(*file)->Bool("tokenizer.ggml.add_bos_token"), true);
    EXPECT_THAT(**(*file)->Strings("tokenizer.ggml.tokens"), ElementsAre("a", "", "ccc"));
    EXPECT_THAT(**(*file)->Floats("tokenizer.ggml.scores"), ElementsAre(0.0, -1.5, 2.0));
    EXPECT_THAT(**(*file)->Ints("tokenizer.ggml.token_type"), ElementsAre(1, 2, 3));
    EXPECT_EQ(*(*file)->Int("none"), std::nullopt);
    EXPECT_EQ(*(*file)->Ints("none"), nullptr);
    const absl::Status wrong = (*file)->Int("general.architecture").status();
    EXPECT_TRUE(absl::IsInvalidArgument(wrong));
    EXPECT_THAT(std::string(Message(wrong)), HasSubstr("\"general.architecture\" is of another type"));

    const auto matrix = (*file)->Matrix(*(*file)->Find("stack"), 1);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_EQ(matrix->rows(), 2);
    std::vector<float> values(6);
    matrix->Read(0, 2, values.data());
    EXPECT_THAT(values, ElementsAre(6, 7, 8, 9, 10, 11));
    matrix->SelectRows({1, 0}).Read(0, 2, values.data());
    EXPECT_THAT(values, ElementsAre(9, 10, 11, 6, 7, 8));
    EXPECT_TRUE(absl::IsInvalidArgument((*file)->Matrix(*(*file)->Find("stack"), 2).status()));
    const auto quantised = (*file)->Matrix(*(*file)->Find("quantised"));
    ASSERT_TRUE(quantised.ok()) << quantised.status();
    EXPECT_EQ(quantised->quantized().ToString(), "Q8_0");
    ASSERT_NE(quantised->quantized().integers(), nullptr);
    EXPECT_EQ(quantised->quantized().integers()->group_size, 32);
  }
}

TEST(GgufFile, ReadsShards) {
  const TempDir dir;
  const auto write = [&dir](int number, int count, const std::string& tensor) {
    GgufWriter writer;
    if (number == 0) writer.AddString("general.architecture", "llama");
    writer.AddInt("split.no", number);
    writer.AddInt("split.count", count);
    writer.AddInt("split.tensors.count", 2);
    writer.AddTensor(tensor, {1}, 0, Floats({static_cast<float>(number)}));
    return dir.Write(fmt::format("m-{:05}-of-00002.gguf", number + 1), writer.Bytes());
  };
  const std::string first = write(0, 2, "a"), second = write(1, 2, "b");
  const auto file = GgufFile::Open(first);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_NE((*file)->Find("b"), nullptr);
  EXPECT_EQ((*file)->Matrix(*(*file)->Find("b"))->plain().As<float>()[0], 1.0f);

  const auto error = [](const std::string& path) { return std::string(Message(GgufFile::Open(path).status())); };
  EXPECT_THAT(error(second), HasSubstr("is shard 2 of 2; name the first, which ends in -00001-of-00002.gguf"));
  write(1, 2, "a");
  EXPECT_THAT(error(first), HasSubstr("tensor \"a\" is in two shards"));
  write(1, 3, "b");
  EXPECT_THAT(error(first), HasSubstr("do not say that it is shard 2 of 2"));
  std::filesystem::remove(second);
  EXPECT_TRUE(absl::IsNotFound(GgufFile::Open(first).status()));
}

TEST(GgufHeader, NamesWhatIsWrong) {
  const auto with = [](const std::function<void(GgufWriter&)>& spoil) {
    GgufWriter writer = GoodFile();
    spoil(writer);
    return writer.Bytes();
  };
  const std::string start = "GGUF" + GgufWriter::Raw<uint32_t>(3);
  const auto raw64 = [](uint64_t value) { return GgufWriter::Raw(value); };
  struct Case {
    std::string bytes;
    const char* message;
  };
  const Case cases[] = {
      {"", "does not begin with \"GGUF\""},
      {"GGUX", "does not begin with \"GGUF\""},
      {"GGUF", "the version needs 4 bytes"},
      {GoodFile(1).Bytes(), "version 1; versions 2 and 3"},
      {GoodFile(4).Bytes(), "version 4; versions 2 and 3"},
      {GoodFile(3u << 24).Bytes(), "big-endian"},
      {start, "the number of tensors needs 8 bytes"},
      {start + raw64(1ull << 60) + raw64(0), "announces 1152921504606846976 tensors"},
      {start + raw64(0) + raw64(1ull << 60), "1152921504606846976 metadata entries"},
      {start + raw64(0) + raw64(1) + raw64(~0ull) + std::string(16, ' '),
       "a metadata key needs 18446744073709551615 bytes"},
      {with([](GgufWriter& w) { w.AddInt("llama.block_count", 3); }), "metadata \"llama.block_count\" is given twice"},
      {with([](GgufWriter& w) { w.Entry("x", 13, ""); }), "metadata \"x\" is of type 13"},
      {with([](GgufWriter& w) { w.Entry("x", 7, "\2"); }), "a boolean of the value 2"},
      {with([&](GgufWriter& w) { w.Entry("x", 10, raw64(~0ull)); }), "it must be below 2^63"},
      {with([&](GgufWriter& w) { w.Entry("x", 9, GgufWriter::Raw<uint32_t>(8) + raw64(1ull << 61)); }),
       "metadata \"x\" announces 2305843009213693952 elements"},
      {with([&](GgufWriter& w) { w.Entry("x", 9, GgufWriter::Raw<uint32_t>(9) + raw64(1)); }), "array of arrays"},
      {with([](GgufWriter& w) { w.AddInt("general.alignment", 33); }), "\"general.alignment\" must be a multiple of 8"},
      {with([](GgufWriter& w) { w.AddString("general.alignment", "32"); }), "\"general.alignment\" must be a multiple"},
      {with([](GgufWriter& w) { w.DeclareTensor("vector", {1}, 0, 0); }), "tensor \"vector\" is given twice"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {}, 0, 0); }), "tensor \"t\" has 0 dimensions"},
      {with([](GgufWriter& w) {
         w.DeclareTensor("t", {1, 1, 1, 1, 1}, 0, 0);
       }),
       "tensor \"t\" has 5 dimensions"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {1}, 4, 0); }),
       "tensor \"t\" is of the type 4, which is not known"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {1}, 99, 0); }), "type 99, which is not known"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {33}, 8, 0); }),
       "rows of 33 elements; Q8_0 needs a multiple of 32"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {0}, 0, 0); }), "a dimension of 0"},
      {with([](GgufWriter& w) {
         w.DeclareTensor("t", {1ll << 62, 1ll << 62}, 0, 0);
       }),
       "does not fit into a file"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {100000}, 0, 0); }), "does not fit into a file"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {1}, 0, 4); }),
       "offset 4; it must be a multiple of the alignment 32"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {1}, 0, 32); }), "inside tensor"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {1}, 0, 1ull << 40); }), "is it truncated?"},
      {with([](GgufWriter& w) { w.DeclareTensor("t", {1}, 0, ~0ull & ~31ull); }), "is it truncated?"},
  };
  for (const Case& one : cases) {
    const absl::Status status = ParseGgufHeader(one.bytes).status();
    EXPECT_FALSE(status.ok()) << one.message;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(one.message));
  }
}

TEST(GgufHeader, EveryTruncationIsAnError) {
  const std::string bytes = GoodFile().Bytes();
  ASSERT_TRUE(ParseGgufHeader(bytes).ok());
  // The last tensor has 68 bytes and is followed by 28 of padding, which may be missing.
  for (size_t size = 0; size < bytes.size() - 28; ++size) {
    EXPECT_FALSE(ParseGgufHeader(std::string_view(bytes).substr(0, size)).ok()) << size;
  }
}

TEST(GgufFile, NamesATypeThatIsNotSupported) {
  const TempDir dir;
  GgufWriter writer;
  writer.AddTensor("t", {256}, 18, std::string(98, '\0'));
  const auto file = GgufFile::Open(dir.Write("model.gguf", writer.Bytes()));
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status status = (*file)->Matrix(*(*file)->Find("t")).status();
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_THAT(std::string(Message(status)), HasSubstr("tensor \"t\" is of the type IQ3_XXS, which is not supported"));
}

}  // namespace
}  // namespace moed
