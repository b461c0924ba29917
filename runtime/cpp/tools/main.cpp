// genedge-run: the verbs of `python -m runtime` without Python.

#include <algorithm>
#include <cstdio>
#include <new>

#include "genedge/error.hpp"
#include "options.hpp"
#include "text.hpp"

namespace {

using genedge::Option;
using genedge::Verb;

std::vector<Verb> verbs() {
  return {genedge::run_verb(), genedge::deid_verb(), genedge::verify_verb(), genedge::bench_verb(), genedge::doctor_verb()};
}

void show_help() {
  std::puts("usage: genedge-run VERB ...\n\nRun generator bundles on video files, cameras, streams and pictures.\n");
  for (const Verb& verb : verbs()) std::printf("  %-8s  %s\n", verb.name.c_str(), verb.help.c_str());
  std::puts("\nExit codes: 0 ok, 1 failed, 2 usage, 3 parity or privacy not met, 130 interrupted.");
}

void show_help(const Verb& verb) {
  std::printf("usage: genedge-run %s [options]\n\n%s\n\n", verb.name.c_str(), verb.help.c_str());
  for (const Option& option : verb.options) {
    std::string words = option.letter.empty() ? option.name : option.letter + ", " + option.name;
    if (option.name[0] == '-' && !option.metavar.empty()) words += " " + option.metavar;
    std::printf("  %-32s  %s\n", words.c_str(), option.help.c_str());
  }
}

int run(const std::vector<std::string>& arguments) {
  const auto wants_help = [](const std::string& word) { return word == "-h" || word == "--help"; };
  if (arguments.empty()) throw genedge::UsageError("name a verb: run, deid, verify, bench or doctor (--help shows them)");
  if (wants_help(arguments[0])) {
    show_help();
    return genedge::kOk;
  }
  if (arguments[0] == "--version") {
    std::puts("genedge-run " GENEDGE_VERSION);
    return genedge::kOk;
  }
  for (const Verb& verb : verbs()) {
    if (verb.name != arguments[0]) continue;
    const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
    if (std::any_of(rest.begin(), rest.end(), wants_help)) {
      show_help(verb);
      return genedge::kOk;
    }
    return verb.run(genedge::Options(verb.options, rest));
  }
  throw genedge::UsageError("unknown verb " + genedge::in_quotes(arguments[0]) + ": --help shows them");
}

}  // namespace

int main(int count, char** values) {
  try {
    return run({values + 1, values + count});
  } catch (const genedge::Error& error) {
    std::fprintf(stderr, "error: %s\n", genedge::printable(error.what()).c_str());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    std::fputs("error: out of memory: run with smaller tiles (--tile 256) or fewer other programs\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", genedge::printable(error.what()).c_str());
  }
  return genedge::kFailed;
}
