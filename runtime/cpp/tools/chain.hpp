// The bundles of a run as stages, one after the other, with their codes and images: what `run` and `deid` share.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "beginnings.hpp"
#include "codes_of_run.hpp"
#include "genedge/bundle.hpp"
#include "genedge/session.hpp"
#include "options.hpp"

namespace genedge {

/// --tile, --code, --image and --no-cut-reset.
std::vector<Option> chain_options();

class Chain {
 public:
  /// Opens the bundles of --bundle and reads their options; `passcodes`: --passcode-file is about their codes too.
  /// Throws UsageError, and ManifestError for a bundle that is not as it should be.
  Chain(const Options& options, bool passcodes);
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  const std::vector<Choice>& choices() const { return choices_; }
  /// Open all stages for frames of `size`, and say so. Gives the size of the frames that leave.
  cv::Size open(cv::Size size, bool live, const EngineOptions& engine);
  std::vector<Session*> sessions() const;
  /// What finds where a video begins anew; nothing where there is no state, as nobody needs to look then.
  std::optional<Beginnings> beginnings(Rational time_base) const;

  /// For reports: every stage, and what its codes are set to.
  nlohmann::json stages_as_json() const;
  nlohmann::json codes_as_json() const;

 private:
  const Options& options_;
  std::vector<Bundle> bundles_;
  std::vector<Choice> choices_;
  std::vector<std::string> images_;
  std::optional<CodesOfRun> codes_;
  std::vector<std::unique_ptr<Session>> stages_;
};

/// `null` without it.
nlohmann::json as_json(const std::optional<Beginnings>& beginnings);

}  // namespace genedge
