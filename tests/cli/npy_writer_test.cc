#include "cli/npy_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "tests/support/temp_dir.h"

namespace moed {
namespace {

TEST(NpyWriter, WritesTheFormat) {
  const testing::TempDir dir;
  const std::string path = dir.File("x.npy");
  {
    auto writer = NpyWriter::Create(path, 2, 3);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->WriteRow(1, std::vector<float>{4, 5, 6}).ok());
    ASSERT_TRUE((*writer)->WriteRow(0, std::vector<float>{1, 2, 3}).ok());
  }
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  ASSERT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t header = 10 + static_cast<unsigned char>(bytes[8]) + 256 * static_cast<unsigned char>(bytes[9]);
  EXPECT_EQ(header % 64, 0u);
  EXPECT_EQ(bytes[header - 1], '\n');
  EXPECT_NE(bytes.find("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"), std::string::npos);
  ASSERT_EQ(bytes.size(), header + 6 * sizeof(float));
  std::vector<float> values(6);
  std::memcpy(values.data(), bytes.data() + header, 6 * sizeof(float));
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(NpyWriter, NamesAFileThatCannotBeWritten) {
  const auto writer = NpyWriter::Create("/no/such/folder/x.npy", 1, 1);
  ASSERT_FALSE(writer.ok());
  EXPECT_NE(std::string(Message(writer.status())).find("/no/such/folder/x.npy"), std::string::npos);
}

}  // namespace
}  // namespace moed
