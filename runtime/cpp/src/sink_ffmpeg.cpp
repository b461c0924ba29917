// Video files, encoded by FFmpeg's libraries, with exact times and the source's sound copied packet by packet.
// See runtime/video/sink.py.

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>

#include "ffmpeg.hpp"
#include "video_files.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

struct FreeOutput {
  void operator()(AVFormatContext* context) const {
    if (context->pb != nullptr) avio_closep(&context->pb);
    avformat_free_context(context);
  }
};
using Output = std::unique_ptr<AVFormatContext, FreeOutput>;

/// Preset `light` of H.264 beside x264's ultrafast: see runtime/video/light.py.
constexpr const char* kLight =
    "cabac=1:deblock=0,0:8x8dct=1:partitions=i4x4,i8x8:subme=1:mbtree=1:rc-lookahead=10:scenecut=40:aq-mode=1:"
    "aq-strength=0.3";

constexpr AVRational kLiveTimeBase = {1, 90'000};

/// What FFmpeg's functions say where they fail.
struct Failure {
  int code;
};

int checked(int code) {
  if (code < 0) throw Failure{code};
  return code;
}

/// The sound of the source file on its way into the output. Reads the file once more, as far as is needed.
class Sound {
 public:
  Sound(const std::string& path, AVFormatContext& output, std::vector<std::string>& warnings)
      : path_(path), output_(output), warnings_(warnings) {
    AVFormatContext* input = nullptr;
    checked(avformat_open_input(&input, path.c_str(), nullptr, nullptr));
    input_.reset(input);
    checked(avformat_find_stream_info(input, nullptr));
    for (unsigned i = 0; i < input->nb_streams; ++i) {
      AVStream* stream = input->streams[i];
      stream->discard = AVDISCARD_ALL;
      const AVCodec* codec = avcodec_find_decoder(stream->codecpar->codec_id);
      if (stream->codecpar->codec_type != AVMEDIA_TYPE_AUDIO || codec == nullptr) continue;
      if (avformat_query_codec(output.oformat, stream->codecpar->codec_id, FF_COMPLIANCE_NORMAL) != 1) {
        warnings.push_back(fs::path(path).filename().string() + ": " + codec->name + " sound does not fit a " +
                           output.oformat->name + " file and was left out: write to a .mkv file");
        continue;
      }
      stream->discard = AVDISCARD_DEFAULT;
      AVStream* copy = avformat_new_stream(&output, nullptr);
      checked(avcodec_parameters_copy(copy->codecpar, stream->codecpar));
      copy->codecpar->codec_tag = 0;
      copy->time_base = stream->time_base;
      const auto* language = av_dict_get(stream->metadata, "language", nullptr, 0);
      if (language != nullptr) av_dict_set(&copy->metadata, "language", language->value, 0);
      streams_[static_cast<int>(i)] = copy->index;
    }
  }

  /// Seconds on the source's clock at which the first track starts, nothing without tracks.
  std::optional<double> start() const {
    std::optional<double> earliest;
    for (const auto& entry : streams_) {
      const AVStream* stream = input_->streams[entry.first];
      if (stream->start_time == AV_NOPTS_VALUE) continue;
      const double start = static_cast<double>(stream->start_time) * av_q2d(stream->time_base);
      earliest = std::min(earliest.value_or(start), start);
    }
    return earliest;
  }

  void move(double seconds) { shift_ = seconds; }

  /// Copy sound up to `until`, seconds on the output's clock, or all of it.
  void copy(std::optional<double> until) {
    while (next()) {
      const AVStream* from = input_->streams[packet_->stream_index];
      const double time = static_cast<double>(packet_->dts) * av_q2d(from->time_base) + shift_;
      if (until && time >= *until) {
        ahead_ = true;
        return;
      }
      const auto ticks = std::llround(shift_ / av_q2d(from->time_base));
      if (packet_->pts != AV_NOPTS_VALUE) packet_->pts += ticks;
      packet_->dts += ticks;
      packet_->stream_index = streams_.at(packet_->stream_index);
      packet_->pos = -1;
      av_packet_rescale_ts(packet_.get(), from->time_base, output_.streams[packet_->stream_index]->time_base);
      checked(av_interleaved_write_frame(&output_, packet_.get()));
    }
  }

 private:
  /// The next packet with a time; false at the end.
  bool next() {
    if (std::exchange(ahead_, false)) return true;
    while (!ended_ && !streams_.empty()) {
      av_packet_unref(packet_.get());
      const int code = av_read_frame(input_.get(), packet_.get());
      if (code < 0) {
        ended_ = true;
        if (code != AVERROR_EOF) {
          warnings_.push_back(fs::path(path_).filename().string() + ": the sound breaks off: " + words_of(code));
        }
        return false;
      }
      if (!streams_.count(packet_->stream_index)) continue;
      if (packet_->dts == AV_NOPTS_VALUE) packet_->dts = packet_->pts;
      if (packet_->dts != AV_NOPTS_VALUE && packet_->size && !(packet_->flags & AV_PKT_FLAG_CORRUPT)) return true;
    }
    return false;
  }

  std::string path_;
  AVFormatContext& output_;
  std::vector<std::string>& warnings_;
  Container input_;
  std::map<int, int> streams_;  // stream of the input -> that of the output
  Packet packet_{av_packet_alloc()};
  double shift_ = 0;
  bool ahead_ = false, ended_ = false;  // a packet was read but is not due yet; no more come
};

class FfmpegSink : public Sink {
 public:
  FfmpegSink(const SinkUri& uri, const SourceInfo& source, cv::Size size, const SinkOptions& options)
      : final_(uri.target),
        unfinished_(options.keep_partial ? fs::path(uri.target + kPartial) : final_),
        temporary_(final_.parent_path() / ("." + final_.stem().string() + ".part" + final_.extension().string())),
        size_(size) {
    const Encoding encoding = encoding_for(uri, options);
    const AVRational base = {static_cast<int>(source.time_base.num), static_cast<int>(source.time_base.den)};
    source_base_ = base;
    base_ = av_q2d(base) <= 0.2 ? base : kLiveTimeBase;
    guard("cannot be made", [&] {
      AVFormatContext* output = nullptr;
      checked(avformat_alloc_output_context2(&output, nullptr, format_name(), temporary_.c_str()));
      output_.reset(output);
      add_video(source, encoding, options.preset);
      if (options.audio && !source.audio.empty()) {
        if (source.path.empty()) {
          warnings_.push_back(final_.string() + ": without sound: only that of a file can be copied");
        } else {
          sound_ = std::make_unique<Sound>(source.path, *output_, warnings_);
        }
      }
      start_ = first_time(source);
      checked(avio_open(&output_->pb, temporary_.c_str(), AVIO_FLAG_WRITE));
      AVDictionary* settings = nullptr;
      if (is_mp4()) {
        // FFmpeg counts a track's late start in milliseconds, rounded down, unless told otherwise
        const std::int64_t scale = std::int64_t{base_.den} * ((999 + base_.den) / base_.den);
        if (scale <= INT32_MAX) av_dict_set_int(&settings, "movie_timescale", scale, 0);
      }
      const int code = avformat_write_header(output_.get(), &settings);
      av_dict_free(&settings);
      checked(code);
    });
  }

  ~FfmpegSink() override {
    if (!done_) discard();
  }

  void write(const VideoFrame& frame) override {
    if (done_) throw VideoError(final_.string() + " is closed: it takes no more frames");
    guard("cannot be written", [&] {
      checked(av_frame_make_writable(picture_.get()));
      convert(frame.image);
      std::int64_t ticks = start_ + av_rescale_q(frame.pts, source_base_, base_);
      if (frames_written_ && ticks <= last_) {
        ++moved_;
        ticks = last_ + 1;
      }
      last_ = ticks;
      const std::int64_t length = std::max<std::int64_t>(1, av_rescale_q(frame.duration, source_base_, base_));
      if (frame.duration > 0) durations_[ticks] = length;
      if (!frames_written_) first_pts_ = ticks;
      end_ = ticks + length;
      picture_->pts = ticks;
      checked(avcodec_send_frame(encoder_.get(), picture_.get()));
      drain(false);
    });
    ++frames_written_;
  }

  void close() override { finish(false); }
  void abort() override { finish(true); }

 private:
  void convert(const cv::Mat& image) {
    if (to_420_) {
      (*to_420_)(image, picture_->data, picture_->linesize);
      return;
    }
    const std::uint8_t* planes[4] = {image.data, nullptr, nullptr, nullptr};
    const int strides[4] = {static_cast<int>(image.step), 0, 0, 0};
    if (!scaler_->run(planes, strides, picture_->data, picture_->linesize)) throw Failure{AVERROR(ENOSYS)};
  }

  bool is_mp4() const { return std::string(format_name()) == "mp4" || std::string(format_name()) == "mov"; }

  const char* format_name() const {
    const std::string suffix = lower(final_.extension().string());
    if (suffix == ".mkv") return "matroska";
    return suffix == ".webm" ? "webm" : suffix == ".mov" ? "mov" : "mp4";
  }

  void add_video(const SourceInfo& source, const Encoding& encoding, const std::string& preset) {
    const char* name = encoding.codec == "hevc" ? "libx265" : encoding.codec == "vp9" ? "libvpx-vp9" : "libx264";
    const AVCodec* codec = avcodec_find_encoder_by_name(name);
    if (codec == nullptr) throw UsageError(std::string("this FFmpeg has no ") + name + ": choose another codec");
    encoder_.reset(avcodec_alloc_context3(codec));
    const bool even = size_.width % 2 == 0 && size_.height % 2 == 0;
    const int matrix = matrix_for(source);
    const int usual = matrix == AVCOL_SPC_BT709 ? AVCOL_PRI_BT709 : AVCOL_PRI_SMPTE170M;
    const auto named = [&](int value) { return value == 0 || value == 2 || value == 3 ? usual : value; };
    const AVRational rate = source.rate ? AVRational{static_cast<int>(source.rate->num),
                                                     static_cast<int>(source.rate->den)}
                                        : AVRational{30, 1};
    encoder_->width = size_.width;
    encoder_->height = size_.height;
    // x264 and x265 take odd sizes only in 4:4:4; that keeps every pixel
    encoder_->pix_fmt = even || encoding.codec == "vp9" ? AV_PIX_FMT_YUV420P : AV_PIX_FMT_YUV444P;
    encoder_->time_base = base_;
    encoder_->framerate = rate;
    encoder_->sample_aspect_ratio = {static_cast<int>(source.sample_aspect.num),
                                     static_cast<int>(source.sample_aspect.den)};
    encoder_->colorspace = static_cast<AVColorSpace>(matrix);
    encoder_->color_range = AVCOL_RANGE_MPEG;
    encoder_->color_primaries = static_cast<AVColorPrimaries>(named(source.color ? source.color->primaries : 2));
    encoder_->color_trc = static_cast<AVColorTransferCharacteristic>(named(source.color ? source.color->transfer : 2));
    encoder_->thread_count = 0;
    if (output_->oformat->flags & AVFMT_GLOBALHEADER) encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    AVDictionary* settings = nullptr;
    av_dict_set(&settings, "crf", general(encoding.crf).c_str(), 0);
    if (encoding.codec == "vp9") {  // its default takes seconds a frame
      for (const auto& [key, value] : {std::pair("deadline", "realtime"), {"cpu-used", "6"}, {"row-mt", "1"}}) {
        av_dict_set(&settings, key, value, 0);
      }
      encoder_->bit_rate = 0;
    } else {
      const bool light = preset == "light", x264 = encoding.codec == "h264";
      av_dict_set(&settings, "preset", !light ? preset.c_str() : x264 ? "ultrafast" : "veryfast", 0);
      if (light && x264) av_dict_set(&settings, "x264-params", kLight, 0);
    }
    if (encoding.codec == "hevc") {
      av_dict_set(&settings, "x265-params", "log-level=error", 0);
      if (is_mp4()) encoder_->codec_tag = MKTAG('h', 'v', 'c', '1');
    }
    const int code = avcodec_open2(encoder_.get(), codec, &settings);
    av_dict_free(&settings);
    checked(code);
    stream_ = avformat_new_stream(output_.get(), nullptr);
    checked(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()));
    stream_->time_base = base_;
    stream_->avg_frame_rate = rate;
    stream_->sample_aspect_ratio = encoder_->sample_aspect_ratio;
    picture_->format = encoder_->pix_fmt;
    picture_->width = size_.width;
    picture_->height = size_.height;
    picture_->colorspace = encoder_->colorspace;
    picture_->color_range = encoder_->color_range;
    checked(av_frame_get_buffer(picture_.get(), 0));
    if (even && BgrTo420::knows(matrix)) {
      to_420_.emplace(matrix);
    } else {
      scaler_.emplace(Pixels{size_, AV_PIX_FMT_BGR24},
                      Pixels{size_, encoder_->pix_fmt, *swscale_matrix(matrix), false});
    }
  }

  /// That of the source where it states one, else what players assume; from constant luminance the decoder goes without.
  int matrix_for(const SourceInfo& source) const {
    if (!source.color || !source.color->stated || source.color->matrix == AVCOL_SPC_RGB) return matrix_for_size(size_);
    return source.color->matrix == AVCOL_SPC_BT2020_CL ? AVCOL_SPC_BT2020_NCL : source.color->matrix;
  }

  /// Ticks of the first frame in the output. The source's clock is kept; only if everything starts late, or the video
  /// below zero, all tracks move by the same amount.
  std::int64_t first_time(const SourceInfo& source) {
    const double start = static_cast<double>(source.start) * av_q2d(source_base_);
    const auto sound = sound_ ? sound_->start() : std::nullopt;
    const double earliest = std::min(start, sound.value_or(start));
    const double move = earliest > 1.0 ? -earliest : std::max(0.0, -start);
    if (sound_) sound_->move(move);
    return av_rescale_q(source.start, source_base_, base_) + std::llround(move / av_q2d(base_));
  }

  /// Hand on what the encoder has; `ending`: also what it still holds back.
  void drain(bool ending) {
    std::vector<Packet> packets;
    for (;;) {
      Packet packet(av_packet_alloc());
      const int code = avcodec_receive_packet(encoder_.get(), packet.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) break;
      checked(code);
      packets.push_back(std::move(packet));
    }
    if (ending && !packets.empty() && is_mp4()) {
      // the file's length is the sum of its packets' in stored order; the last of them is often not the frame that is
      // shown last, but its length has to make up for that one's
      AVPacket& last = *packets.back();
      const std::int64_t first = first_dts_.value_or(packets.front()->dts);
      durations_.erase(last.pts);
      last.duration = std::max<std::int64_t>(1, end_ - first_pts_ - (last.dts - first));
    }
    for (auto& packet : packets) {
      if (const auto length = durations_.find(packet->pts); length != durations_.end()) {
        packet->duration = length->second;
        durations_.erase(length);
      }
      if (!first_dts_) first_dts_ = packet->dts;
      if (sound_) sound_->copy(static_cast<double>(packet->dts) * av_q2d(base_));
      av_packet_rescale_ts(packet.get(), base_, stream_->time_base);
      packet->stream_index = stream_->index;
      checked(av_interleaved_write_frame(output_.get(), packet.get()));
    }
  }

  void finish(bool cut) {
    if (done_) return;
    if (!frames_written_) {
      discard();
      return;
    }
    guard("cannot be finished", [&] {
      checked(avcodec_send_frame(encoder_.get(), nullptr));
      drain(true);
      if (sound_) sound_->copy(cut ? std::optional(static_cast<double>(end_) * av_q2d(base_)) : std::nullopt);
      checked(av_write_trailer(output_.get()));
      checked(avio_closep(&output_->pb));
      if (std::rename(temporary_.c_str(), (cut ? unfinished_ : final_).c_str()) != 0) throw Failure{AVERROR(errno)};
    });
    done_ = true;
    if (moved_) {
      warnings_.push_back(final_.string() + ": " + std::to_string(moved_) +
                          " frames did not come later than the one before");
    }
  }

  /// Turn FFmpeg's errors into a VideoError and clean up.
  template <typename Action>
  void guard(const std::string& what, const Action& action) {
    try {
      action();
    } catch (const Failure& failure) {
      const bool full = failure.code == AVERROR(ENOSPC) || failure.code == AVERROR(EDQUOT);
      const std::string reason = full ? "disk full while writing " + final_.string() +
                                            ": free some space and start again"
                                      : final_.string() + " " + what + ": " + words_of(failure.code);
      throw VideoError(reason + salvaged());
    } catch (...) {
      discard();
      throw;
    }
  }

  /// After a failed write: a Matroska file can be played as far as it goes, others are removed.
  std::string salvaged() {
    const bool playable = frames_written_ > 0 && !is_mp4() && output_ && output_->pb != nullptr;
    if (!playable) {
      discard();
      return "";
    }
    done_ = true;
    avio_closep(&output_->pb);
    std::rename(temporary_.c_str(), unfinished_.c_str());
    return " (what was written so far can be played: " + unfinished_.string() + ")";
  }

  void discard() {
    done_ = true;
    output_.reset();
    std::error_code failure;
    fs::remove(temporary_, failure);
  }

  fs::path final_, unfinished_, temporary_;
  cv::Size size_;
  AVRational source_base_{}, base_{};
  Output output_;
  Decoder encoder_;
  AVStream* stream_ = nullptr;
  Frame picture_{av_frame_alloc()};
  std::optional<BgrTo420> to_420_;  // or, for what it cannot do,
  std::optional<Scaler> scaler_;
  std::unique_ptr<Sound> sound_;
  std::map<std::int64_t, std::int64_t> durations_;
  std::optional<std::int64_t> first_dts_;
  std::int64_t start_ = 0, last_ = 0, end_ = 0, first_pts_ = 0, moved_ = 0;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<Sink> open_video_sink(const SinkUri& uri, const SourceInfo& source, cv::Size size,
                                      const SinkOptions& options) {
  av_log_set_level(AV_LOG_FATAL);
  return std::make_unique<FfmpegSink>(uri, source, size, options);
}

}  // namespace genedge
