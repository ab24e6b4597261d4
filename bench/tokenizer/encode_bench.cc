// Encodes the same documents again and again, when it is told to: the half of compare_encode.py that is moed's.
//
//   encode_bench MODEL_DIR DOCUMENTS      DOCUMENTS: a JSON string a line
//
// For each line on the standard input, encodes all documents in one thread and prints the seconds that this thread
// computed and the number of tokens.
#include <time.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/logging.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void Run(const char* model_dir, const char* path) {
  const auto tokenizer = Tokenizer::Load(model_dir);
  MOED_CHECK(tokenizer.ok(), "{}", tokenizer.status().ToString());
  std::vector<std::string> documents;
  std::ifstream file(path);
  MOED_CHECK(file.good(), "{} cannot be read", path);
  for (std::string line; std::getline(file, line);) documents.push_back(nlohmann::json::parse(line));

  for (std::string command; std::getline(std::cin, command);) {
    const double start = ThreadSeconds();
    size_t num_tokens = 0;
    for (const std::string& document : documents) {
      const auto ids = (*tokenizer)->Encode(document, {.add_special_tokens = false});
      MOED_CHECK(ids.ok(), "{}", ids.status().ToString());
      num_tokens += ids->size();
    }
    std::printf("%.6f %zu\n", ThreadSeconds() - start, num_tokens);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: encode_bench MODEL_DIR DOCUMENTS\n");
    return 2;
  }
  moed::Run(argv[1], argv[2]);
}
