// The condition codes of all stages of a run, as the command line sets them; see runtime/control.py.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "genedge/bundle.hpp"
#include "genedge/session.hpp"

namespace genedge {

class CodesOfRun {
 public:
  explicit CodesOfRun(const std::vector<Bundle>& bundles);

  bool empty() const { return dials_.empty(); }
  /// `NAME=VALUE`; NAME may be BUNDLE.NAME or STAGE.NAME.
  void apply(const std::string& assignment);
  /// Give it to every code of bits that is called `passcode`, or to the only code of bits.
  void apply_passcode(const std::string& passcode);
  /// Set the codes of a stage (from 0).
  void attach(std::size_t stage, Session& session) const;
  /// What the codes of a stage are set to, for a report.
  std::map<std::string, std::string> said(std::size_t stage) const;

 private:
  struct Dial {
    std::string name;    // in messages
    std::string bundle;
    std::size_t stage;
    const Port* port;
    std::vector<float> numbers;
    std::string text;
    bool secret = false;
  };

  Dial& dial(const std::string& name);

  std::vector<Dial> dials_;
};

/// The passcode in a file, without the end of its line. Throws UsageError where there is none, or more than 4 KiB.
std::string read_passcode(const std::string& path);

}  // namespace genedge
