#include "codes_of_run.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge {
namespace {

constexpr std::size_t kMaxPasscodeBytes = 1 << 12;

std::string spelled(const Code& code, const std::vector<float>& numbers) {
  const auto high = static_cast<float>(code.high);
  if (code.kind == "one-hot") {
    const auto place = std::max_element(numbers.begin(), numbers.end()) - numbers.begin();
    return code.labels.empty() ? std::to_string(place) : code.labels[static_cast<std::size_t>(place)];
  }
  std::string text;
  if (code.kind == "bits") {
    for (const float number : numbers) text += number == high ? '1' : '0';
    return text;
  }
  const bool same = std::all_of(numbers.begin(), numbers.end(), [&](float number) { return number == numbers[0]; });
  for (std::size_t i = 0; i < (same ? 1 : numbers.size()); ++i) text += (i ? "," : "") + general(numbers[i]);
  return text;
}

}  // namespace

CodesOfRun::CodesOfRun(const std::vector<Bundle>& bundles) {
  for (std::size_t stage = 0; stage < bundles.size(); ++stage) {
    const Manifest& manifest = bundles[stage].manifest;
    for (const Port* port : manifest.inputs_of("code")) {
      if (!port->code) {
        throw Error("the manifest of " + manifest.name + " does not say what the code " + port->name +
                    " takes: build the bundle again");
      }
      const auto& values = port->code->default_value;
      Dial dial{port->name, manifest.name, stage, port, {values.begin(), values.end()}, "", false};
      dial.text = spelled(*port->code, dial.numbers);
      dial.secret = port->code->kind == "bits" && port->name == "passcode";
      dials_.push_back(std::move(dial));
    }
  }
  for (Dial& dial : dials_) {
    const auto same = [&](auto member) {
      return std::count_if(dials_.begin(), dials_.end(), [&](const Dial& other) {
        return other.port->name == dial.port->name && member(other) == member(dial);
      });
    };
    if (same([](const Dial&) { return 0; }) == 1) continue;
    const bool alone = same([](const Dial& other) { return other.bundle; }) == 1;
    dial.name = (alone ? dial.bundle : std::to_string(dial.stage + 1)) + "." + dial.port->name;
  }
}

CodesOfRun::Dial& CodesOfRun::dial(const std::string& name) {
  std::vector<Dial*> found;
  std::vector<std::string> names, choices;
  const auto numbered = [](const Dial& each) { return std::to_string(each.stage + 1) + "." + each.port->name; };
  for (Dial& each : dials_) {
    if (name == numbered(each)) return each;
  }
  for (Dial& each : dials_) {
    names.push_back(each.name);
    if (name == each.port->name || name == each.bundle + "." + each.port->name) {
      found.push_back(&each);
      choices.push_back(numbered(each));
    }
  }
  if (found.size() == 1) return *found[0];
  if (!found.empty()) throw UsageError(name + " is a code of several bundles: say " + joined(choices, " or "));
  throw UsageError("no code is called " + in_quotes(cut(name)) + ": " +
                   (names.empty() ? "no bundle here takes one"
                                  : (names.size() == 1 ? "there is " : "there are ") + joined(names)));
}

void CodesOfRun::apply(const std::string& assignment) {
  const auto equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw UsageError("argument --code: " + in_quotes(assignment) + " is not NAME=VALUE, for example style=2");
  }
  Dial& dial = this->dial(assignment.substr(0, equals));
  const std::string text = assignment.substr(equals + 1);
  const std::string start(trimmed(text));
  if (dial.port->code->kind == "bits" && starts_with(start, "passcode:")) {
    throw UsageError("everybody on this machine can read a command line: use --passcode-file FILE");
  }
  if (dial.port->is_map() && ends_with(lower(start), ".png")) {
    throw UsageError("a picture for the map " + dial.name + " is taken by `python -m runtime` only: give one value "
                     "for the whole frame");
  }
  dial.numbers = dial.port->code->parsed(text, dial.name);
  dial.text = spelled(*dial.port->code, dial.numbers);
}

void CodesOfRun::apply_passcode(const std::string& passcode) {
  std::vector<Dial*> bits, named;
  for (Dial& each : dials_) {
    if (each.port->code->kind != "bits") continue;
    bits.push_back(&each);
    if (each.port->name == "passcode") named.push_back(&each);
  }
  const auto& taken = named.empty() ? bits : named;
  if (taken.empty() || (named.empty() && bits.size() > 1)) {
    throw UsageError(std::string("there is no place for a passcode: ") +
                     (taken.empty() ? "no code of bits" : "several codes of bits and none called passcode"));
  }
  for (Dial* each : taken) {
    each->numbers = each->port->code->parsed("passcode:" + passcode, each->name);
    each->secret = true;
  }
}

void CodesOfRun::attach(std::size_t stage, Session& session) const {
  for (const Dial& each : dials_) {
    if (each.stage == stage) session.set_code(each.port->name, {each.numbers.begin(), each.numbers.end()});
  }
}

std::map<std::string, std::string> CodesOfRun::said(std::size_t stage) const {
  std::map<std::string, std::string> result;
  for (const Dial& each : dials_) {
    if (each.stage == stage) result[each.port->name] = each.secret ? "(secret)" : each.text;
  }
  return result;
}

std::string read_passcode(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string data(kMaxPasscodeBytes + 1, '\0');
  file.read(data.data(), static_cast<std::streamsize>(data.size()));
  if (!file && !file.eof()) throw UsageError(path + ": " + std::strerror(errno));
  data.resize(static_cast<std::size_t>(file.gcount()));
  if (data.size() > kMaxPasscodeBytes) {
    throw UsageError(path + ": more than " + std::to_string(kMaxPasscodeBytes) + " bytes");
  }
  if (starts_with(data, "\xEF\xBB\xBF")) data.erase(0, 3);
  data.erase(data.find_last_not_of("\r\n") + 1);
  if (data.empty()) throw UsageError(path + ": holds no passcode");
  return data;
}

}  // namespace genedge
