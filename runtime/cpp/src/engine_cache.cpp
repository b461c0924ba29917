#include "engine_cache.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>

#include "genedge/bundle.hpp"
#include "json_reader.hpp"
#include "text.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

constexpr int kBuilder = 1;  // BUILDER of runtime/engines/cache.py
constexpr std::size_t kMostSideBytes = 1 << 16;

/// A text as Python's json.dumps writes it.
std::string in_json(const std::string& text) {
  std::string result = "\"";
  const auto escape = [&](unsigned unit) {
    char code[16];
    std::snprintf(code, sizeof code, "\\u%04x", unit);
    result += code;
  };
  for (const char32_t point : decoded(text)) {
    if (point == U'"' || point == U'\\') {
      result += '\\';
      result += static_cast<char>(point);
    } else if (point >= 0x20 && point < 0x7F) {
      result += static_cast<char>(point);
    } else if (point < 0x10000) {
      escape(static_cast<unsigned>(point));
    } else {
      escape(static_cast<unsigned>(0xD800 + ((point - 0x10000) >> 10)));
      escape(static_cast<unsigned>(0xDC00 + ((point - 0x10000) & 0x3FF)));
    }
  }
  return result + "\"";
}

std::string number_or_null(int number) { return number < 0 ? "null" : std::to_string(number); }

std::string shape_text(const Shape& shape) {
  std::vector<std::string> sides;
  for (const auto side : shape) sides.push_back(std::to_string(side));
  return "[" + joined(sides) + "]";
}

/// `genedge/engines` in the user's cache, nothing for a user without a home.
std::optional<fs::path> users_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache) return fs::path(cache) / "genedge" / "engines";
  const char* home = std::getenv("HOME");
  if (home == nullptr || !*home) return std::nullopt;
  return fs::path(home) / ".cache" / "genedge" / "engines";
}

bool of_a_bundle(const fs::path& folder) {
  std::error_code failure;
  return folder.filename() == "engines" && fs::exists(folder.parent_path() / kManifestName, failure);
}

/// Whether this user has built a plan with this digest.
bool built_here(const std::string& digest) {
  const auto users = users_folder();
  if (!users) return false;
  std::ifstream history(*users / "built.jsonl");
  for (std::string line; std::getline(history, line);) {
    try {
      const Json record = parse_json(line);
      const Json* found = record.find("plan_sha256");
      if (found != nullptr && found->text == digest) return true;
    } catch (const std::invalid_argument&) {  // a line that was not written to its end
    }
  }
  return false;
}

/// The plan, or why there is none; neither where none was ever kept.
std::pair<std::optional<std::string>, std::string> kept(const fs::path& folder, const EngineIdentity& identity) {
  const fs::path plan_file = folder / (identity.key() + ".plan"), side_file = folder / (identity.key() + ".json");
  const auto text = read_whole(side_file);
  std::error_code failure;
  if (!text) {
    if (!fs::exists(plan_file, failure)) return {};
    return {std::nullopt, "the kept engine has no side file, so it was not written to its end"};
  }
  Json side;
  try {
    if (text->size() > kMostSideBytes) throw std::invalid_argument("more than 65536 bytes");
    side = parse_json(*text);
  } catch (const std::invalid_argument& error) {
    return {std::nullopt, side_file.filename().string() + " is damaged (" + error.what() + ")"};
  }
  const Json *found = side.find("identity"), *digest = side.find("plan_sha256");
  if (found == nullptr || found->dump() != parse_json(identity.json()).dump()) {
    return {std::nullopt, side_file.filename().string() + " belongs to another engine"};
  }
  auto plan = read_whole(plan_file);
  if (!plan) return {std::nullopt, "the plan of the kept engine is missing"};
  const std::string own = sha256_hex(*plan);
  if (digest == nullptr || digest->text != own) {
    return {std::nullopt, "the kept engine is damaged (" + std::to_string(plan->size()) +
                              " bytes with another sha256 than its side file says)"};
  }
  if (of_a_bundle(folder) && !built_here(own)) {
    return {std::nullopt, "the engine came with the bundle and is none that this user has built"};
  }
  return {std::move(plan), ""};
}

/// The lock of a folder, as Python takes it; the system takes it back from a process that dies.
class Lock {
 public:
  Lock(const fs::path& folder, const std::function<void(const std::string&)>& progress)
      : handle_(open((folder / ".lock").c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644)) {
    bool told = false;
    while (handle_ >= 0 && flock(handle_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      if (!std::exchange(told, true)) {
        progress("another process builds an engine in " + folder.string() + ": waiting for it");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }
  ~Lock() {
    if (handle_ >= 0) close(handle_);
  }
  bool held() const { return handle_ >= 0; }

 private:
  int handle_;
};

/// Append a build to the history, and give what was appended.
std::string remembered(const EngineIdentity& identity, std::size_t model_bytes, double seconds,
                       const std::string& digest) {
  const std::string record = "{\"tensorrt\": " + in_json(identity.tensorrt) + ", \"gpu\": " + in_json(identity.gpu) +
                             ", \"sm\": " + in_json(identity.sm) + ", \"variant\": " + in_json(identity.variant) +
                             ", \"precision\": " + in_json(identity.precision) +
                             ", \"model_bytes\": " + std::to_string(model_bytes) +
                             ", \"seconds\": " + with_digits(seconds, 3) + ", \"plan_sha256\": " + in_json(digest) + "}";
  if (const auto users = users_folder()) {
    std::error_code failure;
    fs::create_directories(*users, failure);
    std::ofstream(*users / "built.jsonl", std::ios::app) << record << '\n';
  }
  return record;
}

}  // namespace

std::string EngineIdentity::json() const {
  std::string shapes;
  for (const auto& [name, three] : inputs) {
    shapes += (shapes.empty() ? "" : ", ") + in_json(name) + ": [" + shape_text(three[0]) + ", " +
              shape_text(three[1]) + ", " + shape_text(three[2]) + "]";
  }
  const auto truth = [](bool value) { return value ? "true" : "false"; };
  return "{\"builder\": " + std::to_string(kBuilder) + ", \"dla_core\": " + number_or_null(dla_core) +
         ", \"driver\": " + std::to_string(driver) + ", \"gpu\": " + in_json(gpu) +
         ", \"hardware_compatible\": " + truth(hardware_compatible) + ", \"inputs\": {" + shapes +
         "}, \"model\": " + in_json(model) + ", \"optimization_level\": " + number_or_null(optimization_level) +
         ", \"precision\": " + in_json(precision) + ", \"sm\": " + in_json(sm) + ", \"tensorrt\": " + in_json(tensorrt) +
         ", \"variant\": " + in_json(variant) + ", \"version_compatible\": " + truth(version_compatible) +
         ", \"workspace_mib\": " + number_or_null(workspace_mib) + "}";
}

std::string EngineIdentity::key() const { return sha256_hex(json()); }

std::optional<std::string> read_whole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string{std::istreambuf_iterator<char>(file), {}};
}

bool write_whole(const fs::path& path, const std::string& data) {
  std::string temporary = (path.parent_path() / ("." + path.filename().string() + ".XXXXXX")).string();
  const int handle = mkstemp(temporary.data());
  if (handle < 0) return false;
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t written = write(handle, data.data() + done, data.size() - done);
    if (written <= 0) break;
    done += static_cast<std::size_t>(written);
  }
  const bool good = done == data.size() && fsync(handle) == 0;
  if (close(handle) == 0 && good && std::rename(temporary.c_str(), path.c_str()) == 0) return true;
  std::remove(temporary.c_str());
  return false;
}

std::string engine_for(const EngineIdentity& identity, const fs::path& wanted, std::size_t model_bytes,
                       const std::function<std::string(const fs::path&)>& build,
                       const std::function<void(const std::string&)>& progress, bool refused) {
  fs::path folder = wanted;
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (!refused) {
    if (auto plan = kept(folder, identity).first) return std::move(*plan);
  }
  if (failure || access(folder.c_str(), W_OK | X_OK) != 0) {
    const auto users = users_folder();
    if (users) {
      progress(folder.string() + " cannot be written: the engine is kept in " + users->string());
      folder = *users;
      fs::create_directories(folder, failure);
    }
  }
  const Lock lock(folder, progress);
  if (!refused) {
    auto [plan, why] = kept(folder, identity);  // another process may have built it meanwhile
    if (plan) return std::move(*plan);
    if (!why.empty()) progress(why + ": rebuilding");
  }
  const auto& shape = identity.inputs.begin()->second[1];
  const std::string size = shape.size() == 4 ? std::to_string(shape[2]) + "x" + std::to_string(shape[1]) : "its frames";
  progress("building the TensorRT " + identity.precision + " engine for " + size);
  std::string gpu;
  for (const char letter : identity.gpu) gpu += std::isalnum(static_cast<unsigned char>(letter)) ? letter : '-';
  const auto start = std::chrono::steady_clock::now();
  std::string plan = build(folder / ("timings-" + gpu + "-sm" + identity.sm + "-" + identity.tensorrt + ".cache"));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string digest = sha256_hex(plan), record = remembered(identity, model_bytes, seconds, digest);
  const std::string side = "{\"identity\": " + identity.json() + ", \"built\": " + record +
                           ", \"plan_sha256\": " + in_json(digest) + "}";
  // the plan is written first, so that one without a side file was not finished
  if (!lock.held() || !write_whole(folder / (identity.key() + ".plan"), plan) ||
      !write_whole(folder / (identity.key() + ".json"), side)) {
    progress("the engine was not kept (" + folder.string() + " cannot be written): the next start builds it again");
  }
  return plan;
}

}  // namespace genedge
