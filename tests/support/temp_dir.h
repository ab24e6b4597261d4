// A folder that is gone when the test ends.
#ifndef MOED_TESTS_SUPPORT_TEMP_DIR_H_
#define MOED_TESTS_SUPPORT_TEMP_DIR_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/logging.h"

namespace moed::testing {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "moed_test_XXXXXX").string();
    MOED_CHECK(mkdtemp(pattern.data()) != nullptr, "cannot make a folder {}", pattern);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Writes `contents` to the file `name` of the folder, which may lie in folders that are not there yet, and returns
  // its path.
  std::string Write(std::string_view name, std::string_view contents) const {
    std::filesystem::create_directories(std::filesystem::path(File(name)).parent_path());
    std::ofstream file(File(name), std::ios::binary);
    file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
    MOED_CHECK(file.good(), "cannot write {}", File(name));
    return File(name);
  }

 private:
  std::string path_;
};

}  // namespace moed::testing

#endif  // MOED_TESTS_SUPPORT_TEMP_DIR_H_
