# Chat templates: a Jinja interpreter of our own, and what finds a checkpoint's template.
target_sources(moed_tokenizer PRIVATE
  chat_template.cc
  jinja/attributes.cc
  jinja/callable.cc
  jinja/evaluator.cc
  jinja/expression_parser.cc
  jinja/format.cc
  jinja/globals.cc
  jinja/lexer.cc
  jinja/loop.cc
  jinja/operators.cc
  jinja/parser.cc
  jinja/predicates.cc
  jinja/sequence_filters.cc
  jinja/string_methods.cc
  jinja/template.cc
  jinja/text.cc
  jinja/text_filters.cc
  jinja/unicode.cc
  jinja/value.cc)
