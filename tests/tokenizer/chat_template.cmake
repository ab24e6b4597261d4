moed_test(tokenizer_chat_template_test SOURCES chat_template_test.cc
  DEPS moed::tokenizer nlohmann_json::nlohmann_json)
moed_test(tokenizer_jinja_test SOURCES jinja_test.cc
  DEPS moed::tokenizer nlohmann_json::nlohmann_json)
