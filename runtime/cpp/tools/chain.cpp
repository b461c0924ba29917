#include "chain.hpp"

#include <algorithm>

#include "genedge/error.hpp"
#include "report.hpp"
#include "text.hpp"

namespace genedge {
namespace {

/// The image that each stage gives, "" for its main one.
std::vector<std::string> images_of(const std::vector<std::string>& wishes, const std::vector<Bundle>& bundles) {
  std::vector<std::string> images(bundles.size());
  for (const auto& wish : wishes) {
    const auto colon = wish.rfind(':');
    const std::string stage = colon == std::string::npos ? "" : wish.substr(0, colon);
    const std::string name = colon == std::string::npos ? wish : wish.substr(colon + 1);
    const bool numbered = all_digits(stage) && stage.size() < 10;
    const std::size_t number = numbered ? std::stoul(stage) : bundles.size();
    if ((colon != std::string::npos && !numbered) || number < 1 || number > bundles.size()) {
      throw UsageError("--image " + cut(wish) + ": the stage before the colon is a number from 1 to " +
                       std::to_string(bundles.size()));
    }
    if (!images[number - 1].empty()) {
      throw UsageError("--image " + wish + ": stage " + std::to_string(number) +
                       " has its image already, and a stage gives one");
    }
    images[number - 1] = bundles[number - 1].manifest.image(name).name;
  }
  return images;
}

CodesOfRun codes_of(const Options& options, const std::vector<Bundle>& bundles, bool passcodes) {
  CodesOfRun codes(bundles);
  const bool passcode = passcodes && options.has("--passcode-file");
  if ((options.has("--code") || passcode) && codes.empty()) {
    std::vector<std::string> names;
    for (const Bundle& bundle : bundles) names.push_back(bundle.manifest.name);
    throw UsageError(joined(names) + " takes no code: leave out " +
                     (options.has("--code") ? "--code" : "--passcode-file"));
  }
  for (const auto& assignment : options.all("--code")) codes.apply(assignment);
  if (passcode) codes.apply_passcode(read_passcode(options.text("--passcode-file")));
  return codes;
}

}  // namespace

Chain::Chain(const Options& options, bool passcodes) : options_(options) {
  for (const auto& place : options.all("--bundle")) bundles_.push_back(open_bundle(place));
  images_ = images_of(options.all("--image"), bundles_);
  for (const Bundle& bundle : bundles_) {
    choices_.push_back(choose(bundle, options.text("--backend", "auto"), options.text("--precision", "auto")));
  }
  codes_.emplace(codes_of(options, bundles_, passcodes));
}

cv::Size Chain::open(cv::Size size, bool live, const EngineOptions& engine) {
  for (std::size_t i = 0; i < bundles_.size(); ++i) {
    SessionOptions session;
    session.engine = engine;
    session.live = live;
    session.image = images_[i];
    stages_.push_back(open_stage(bundles_[i], choices_[i], size, options_.count("--tile").value_or(-1), session));
    if (live) {
      stages_.back()->warm_up(size);
    } else {  // nobody waits for a frame of a file in particular
      stages_.back()->prepare(size);
    }
    codes_->attach(i, *stages_.back());
    say(bundles_[i].manifest.name + ": " + choices_[i].reason + "; " + shown(size) + " on " +
        stages_.back()->info().device);
    size *= stages_.back()->scale();
  }
  return size;
}

std::vector<Session*> Chain::sessions() const {
  std::vector<Session*> sessions;
  for (const auto& stage : stages_) sessions.push_back(stage.get());
  return sessions;
}

std::optional<Beginnings> Chain::beginnings(Rational time_base) const {
  const bool recurrent = std::any_of(bundles_.begin(), bundles_.end(), [](const Bundle& bundle) {
    return !bundle.manifest.inputs_of("state").empty();
  });
  if (!recurrent) return std::nullopt;
  return Beginnings(!options_.has("--no-cut-reset"), time_base);
}

nlohmann::json Chain::stages_as_json() const {
  nlohmann::json stages = nlohmann::json::array();
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const EngineInfo engine = stages_[i]->info();
    const Choice& choice = choices_[i];
    stages.push_back({{"bundle", bundles_[i].manifest.name},
                      {"backend", choice.backend},
                      {"precision", choice.precision},
                      {"variant", choice.variant},
                      {"reason", choice.reason},
                      {"device", engine.device},
                      {"threads", engine.threads},
                      {"in_flight", stages_[i]->in_flight()},
                      {"image", bundles_[i].manifest.image(images_[i]).name},
                      {"codes", codes_->said(i)}});
  }
  return stages;
}

nlohmann::json Chain::codes_as_json() const {
  nlohmann::json codes = nlohmann::json::array();
  for (std::size_t i = 0; i < stages_.size(); ++i) codes.push_back(codes_->said(i));
  return codes;
}

nlohmann::json as_json(const std::optional<Beginnings>& beginnings) {
  if (!beginnings) return nullptr;
  return {{"cuts", beginnings->cuts}, {"gaps", beginnings->gaps}};
}

std::vector<Option> chain_options() {
  return {
      {"--tile", "", "N", "side of the tiles in pixels, 0 for whole frames (default: whole frames up to 1920x1088)"},
      {"--code", "", "NAME=VALUE", "code of a conditional generator; NAME may be BUNDLE.NAME or STAGE.NAME", false,
       true},
      {"--image", "", "[STAGE:]NAME", "which image of a bundle that gives several", false, true},
      {"--no-cut-reset", "", "", "let a recurrent bundle keep its state across cuts"},
  };
}

}  // namespace genedge
