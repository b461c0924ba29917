// Video files, network streams and standard input, decoded by FFmpeg's libraries.
//
// Rotation is applied, colours follow the stream's matrix and range, with the same conversion as in
// runtime/video/source.py, so that pixels are the same there and here.

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <opencv2/imgproc.hpp>

#include "ffmpeg.hpp"
#include "text.hpp"
#include "video_files.hpp"
#include "yuv.hpp"

namespace genedge {
namespace {

constexpr double kTimeout = 10.0;  // seconds that a stream may stay silent
constexpr double kSilence = 2.5;   // the same of a stream that is live by its nature, once it is open
constexpr std::int64_t kTicks = 90'000;

/// The demuxer or the decoder gave up.
struct BrokeOff {
  std::string reason;
};

/// Turns the timestamps of a stream into strictly rising ticks that start at 0. Good ones pass unchanged; a missing one
/// is one frame later, a repeated one a tick; a clock that restarts goes on where it was.
class Timestamps {
 public:
  explicit Timestamps(std::int64_t step, Rational time_base)
      : step_(step), jump_(std::max<std::int64_t>(1, time_base.den / std::max<std::int64_t>(1, time_base.num))) {}

  std::int64_t next(std::int64_t ticks) {
    restarted = false;
    const bool missing = ticks == AV_NOPTS_VALUE;
    if (!begun_) {
      begun_ = true;
      offset_ = missing ? 0 : -ticks;
      return last_ = 0;
    }
    const std::int64_t following = last_ + step_;
    if (missing) return last_ = following;
    std::int64_t pts = ticks + offset_;
    if (pts <= last_) {
      if (last_ - pts > jump_) {
        offset_ += following - pts;
        pts = following;
        restarted = true;
      } else {
        pts = last_ + 1;
      }
    }
    return last_ = pts;
  }

  bool restarted = false;

 private:
  std::int64_t step_, jump_, offset_ = 0, last_ = 0;
  bool begun_ = false;
};

/// When the frames of a live stream were taken, as far as this machine can tell; see ArrivalClock in Python.
class ArrivalClock {
 public:
  void note(double time, double now) {
    double zero = now - time;
    if (known_ && time > last_ - 1.0) zero = std::min(zero, zero_ + 1e-4 * (now - noted_));
    zero_ = zero, noted_ = now, last_ = time, known_ = true;
  }
  double captured(double time, double now) const { return known_ ? std::min(now, zero_ + time) : now; }

 private:
  double zero_ = 0, noted_ = 0, last_ = 0;
  bool known_ = false;
};

/// One of the eight ways to lay a picture: transpose first, then mirror.
struct Orientation {
  bool transpose = false, mirror_x = false, mirror_y = false;

  static Orientation of(const std::int32_t* matrix) {
    const double a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
    if (std::abs(a) + std::abs(d) >= std::abs(b) + std::abs(c)) return {false, a < 0, d < 0};
    return {true, c < 0, b < 0};
  }
  int degrees() const { return transpose ? (mirror_y ? 270 : 90) : mirror_y ? 180 : 0; }
  bool mirrored() const { return (transpose + mirror_x + mirror_y) % 2 == 1; }
  cv::Mat applied(const cv::Mat& image) const {
    cv::Mat result = image;
    if (degrees()) {
      const int turn = degrees() == 90 ? cv::ROTATE_90_CLOCKWISE
                       : degrees() == 180 ? cv::ROTATE_180
                                          : cv::ROTATE_90_COUNTERCLOCKWISE;
      cv::rotate(image, result, turn);
    }
    if (mirrored()) cv::flip(cv::Mat(result), result, 1);
    return result;
  }
};

ColorInfo color_of(const AVFrame& frame) {
  const auto* format = av_pix_fmt_desc_get(static_cast<AVPixelFormat>(frame.format));
  const std::string name = format->name;
  if (format->flags & AV_PIX_FMT_FLAG_RGB || starts_with(name, "pal")) {
    return {AVCOL_SPC_RGB, true, frame.color_primaries, frame.color_trc, true};
  }
  const bool stated = swscale_matrix(frame.colorspace).has_value();
  const int matrix = stated ? static_cast<int>(frame.colorspace) : matrix_for_size({frame.width, frame.height});
  const bool implied = starts_with(name, "yuvj") || starts_with(name, "gray");
  const bool full = frame.color_range == AVCOL_RANGE_JPEG || (frame.color_range != AVCOL_RANGE_MPEG && implied);
  return {matrix, full, frame.color_primaries, frame.color_trc, stated};
}

class FfmpegSource : public Source {
 public:
  explicit FfmpegSource(const SourceUri& uri) : uri_(uri) {
    is_file_ = uri.kind != SourceKind::network;
    open();
    open_decoder();
    AVFrame* first = nullptr;
    try {
      first = decoded();
    } catch (const BrokeOff& broke) {
      const bool piped = uri.kind == SourceKind::standard_input && format_has("mp4");
      throw VideoError(uri.text + ": no video frame can be decoded: " + broke.reason +
                       (piped ? " (an MP4 can be read from a pipe if its index is in front: ffmpeg -movflags "
                                "faststart, or frag_keyframe)"
                              : ""));
    }
    if (first == nullptr) throw VideoError(uri.text + " holds no video frame");
    held_.reset(av_frame_clone(first));
    describe(*held_);
  }

  std::optional<VideoFrame> read() override {
    if (error_) throw *error_;
    try {
      const Frame frame = held_ ? std::move(held_) : next();
      if (!frame) {
        check_complete();
        note_damage();
        return std::nullopt;
      }
      if (!info_.live) look_ahead();
      return converted(*frame);
    } catch (const BrokeOff& broke) {
      fail(broke);
    }
  }

  void interrupt() override { interrupted_ = true; }

 private:
  // -- opening ----------------------------------------------------------------------------------------------------

  static int asked_to_stop(void* self) {
    const auto* source = static_cast<FfmpegSource*>(self);
    return source->interrupted_ || (source->deadline_ > 0 && steady_seconds() > source->deadline_);
  }

  void open() {
    if (uri_.kind == SourceKind::file) check_video_file(uri_);
    avformat_network_init();
    AVFormatContext* container = avformat_alloc_context();
    container->interrupt_callback = {asked_to_stop, this};
    AVDictionary* wishes = nullptr;
    const std::string scheme = lower(uri_.text.substr(0, uri_.text.find(':')));
    const bool live_scheme = scheme == "rtsp" || scheme == "rtsps" || scheme == "rtmp" || scheme == "udp" ||
                             scheme == "srt";
    if (!is_file_) {
      if (scheme == "rtsp") av_dict_set(&wishes, "rtsp_transport", "tcp", 0);
      if (live_scheme) av_dict_set(&wishes, "analyzeduration", "500000", 0);
      deadline_ = steady_seconds() + kTimeout;
    }
    silence_ = live_scheme ? kSilence : kTimeout;
    int code = avformat_open_input(&container, uri_.target.c_str(), nullptr, &wishes);
    av_dict_free(&wishes);
    if (code >= 0) {
      container_.reset(container);
      code = avformat_find_stream_info(container, nullptr);
    }
    if (code < 0) throw VideoError(why_not_open(code));
    for (unsigned i = 0; i < container_->nb_streams && stream_ == nullptr; ++i) {
      AVStream* stream = container_->streams[i];
      const bool cover = stream->disposition & AV_DISPOSITION_ATTACHED_PIC;
      if (stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO && !cover &&
          avcodec_find_decoder(stream->codecpar->codec_id) != nullptr) {
        stream_ = stream;
      }
    }
    if (stream_ == nullptr) throw VideoError(uri_.text + " has no video track" + kinds());
    for (unsigned i = 0; i < container_->nb_streams; ++i) {
      if (container_->streams[i] != stream_) container_->streams[i]->discard = AVDISCARD_ALL;
    }
  }

  std::string why_not_open(int code) const {
    if (!is_file_ && code == AVERROR_EXIT) return uri_.text + ": no answer within " + general(kTimeout) + " s";
    if (code == AVERROR(EACCES)) return uri_.text + " cannot be read: permission denied";
    if (!is_file_) return uri_.text + " cannot be opened: " + words_of(code);
    if (uri_.kind == SourceKind::standard_input) {
      return "standard input cannot be opened as video: " + words_of(code) + " (did any come?)";
    }
    return uri_.text + " cannot be opened as video: " + words_of(code) + " (is it complete?)";
  }

  std::string kinds() const {
    std::vector<std::string> names;
    for (unsigned i = 0; i < container_->nb_streams; ++i) {
      const char* name = av_get_media_type_string(container_->streams[i]->codecpar->codec_type);
      names.push_back(name == nullptr ? "data" : name);
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names.empty() ? "" : ", only " + joined(names, " and ");
  }

  void open_decoder() {
    const AVCodec* codec = avcodec_find_decoder(stream_->codecpar->codec_id);
    decoder_.reset(avcodec_alloc_context3(codec));
    const bool endless = !is_file_ && container_->duration <= 0 && !ends_with(container_->iformat->name, "_pipe");
    info_.live = endless;
    untimed_ = endless && (format_is("mpjpeg") || format_is("mjpeg"));
    int code = avcodec_parameters_to_context(decoder_.get(), stream_->codecpar);
    decoder_->pkt_timebase = stream_->time_base;
    decoder_->thread_count = 0;
    if (endless) {
      decoder_->thread_type = FF_THREAD_SLICE;
      decoder_->flags |= AV_CODEC_FLAG_LOW_DELAY;
    }
    if (code >= 0) code = avcodec_open2(decoder_.get(), codec, nullptr);
    if (code < 0) throw VideoError(uri_.text + " cannot be opened as video: " + words_of(code));
  }

  void describe(const AVFrame& first) {
    AVRational rate = stream_->avg_frame_rate;
    if (!sane(rate)) rate = av_guess_frame_rate(container_.get(), stream_, nullptr);
    const AVRational base = untimed_ ? AVRational{1, kTicks} : stream_->time_base;
    info_.uri = uri_.text;
    info_.time_base = {base.num, base.den};
    if (sane(rate)) info_.rate = Rational{rate.num, rate.den};
    const double seconds = sane(rate) ? 1 / av_q2d(rate) : 0.04;
    step_ = std::max<std::int64_t>(1, std::llround(seconds / av_q2d(base)));
    clock_.emplace(step_, info_.time_base);
    if (const auto* matrix = display_matrix(stream_)) orientation_ = Orientation::of(matrix);
    coded_ = {first.width, first.height};
    info_.size = orientation_.transpose ? cv::Size(coded_.height, coded_.width) : coded_;
    info_.rotation = orientation_.degrees();
    const AVRational aspect = av_guess_sample_aspect_ratio(container_.get(), stream_, nullptr);
    if (aspect.num > 0 && aspect.den > 0) {
      info_.sample_aspect = orientation_.transpose ? Rational{aspect.den, aspect.num} : Rational{aspect.num, aspect.den};
    }
    const std::int64_t ticks = ticks_of(first);
    info_.start = ticks == AV_NOPTS_VALUE ? 0 : ticks;
    if (uri_.kind == SourceKind::file) info_.path = uri_.target;
    info_.codec = decoder_->codec->name;
    info_.color = color_of(first);
    for (unsigned i = 0; i < container_->nb_streams; ++i) {
      const auto* parameters = container_->streams[i]->codecpar;
      if (parameters->codec_type != AVMEDIA_TYPE_AUDIO) continue;
      const AVCodec* codec = avcodec_find_decoder(parameters->codec_id);
      if (codec != nullptr) info_.audio.push_back(codec->name);
    }
    if (!info_.live) {
      length_ = stated_length();
      expected_ = stream_->nb_frames;
      const double length = length_ > 0 ? length_ : static_cast<double>(container_->duration) / AV_TIME_BASE;
      if (expected_ > 0) {
        info_.frame_count = expected_;
      } else if (length > 0 && info_.rate) {
        info_.frame_count = std::max<std::int64_t>(1, std::llround(length * info_.rate->value()));
      }
    }
    if (is_interlaced(first)) {
      warnings_.push_back(uri_.text + " is interlaced: frames are used as they are, combing included");
    }
    if (first.color_trc == AVCOL_TRC_SMPTE2084 || first.color_trc == AVCOL_TRC_ARIB_STD_B67) {
      warnings_.push_back(uri_.text + " is HDR video: it is cut down to 8 bits without tone mapping");
    }
  }

  /// Length of the video in seconds by the file's own words, 0 where it does not say.
  double stated_length() const {
    const double start = static_cast<double>(info_.start) * info_.time_base.value();
    const bool matroska = format_has("matroska");
    if (matroska) {
      // a track's length is in a tag, counted from the clock's zero
      const AVDictionaryEntry* tag = av_dict_get(stream_->metadata, "DURATION", nullptr, 0);
      int hours = 0, minutes = 0;
      double seconds = 0;
      if (tag != nullptr && std::sscanf(tag->value, "%d:%d:%lf", &hours, &minutes, &seconds) == 3) {
        return hours * 3600 + minutes * 60 + seconds - start;
      }
    } else if (stream_->duration > 0) {
      return static_cast<double>(stream_->duration) * av_q2d(stream_->time_base);
    }
    bool alone = true;
    for (unsigned i = 0; i < container_->nb_streams; ++i) {
      alone = alone && container_->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_VIDEO;
    }
    if (container_->duration > 0 && alone) {
      return static_cast<double>(container_->duration) / AV_TIME_BASE - (matroska ? start : 0);
    }
    return 0;
  }

  // -- decoding ---------------------------------------------------------------------------------------------------

  Frame next() {
    if (ahead_failed_) throw *ahead_failed_;
    AVFrame* frame = ended_ ? nullptr : decoded();
    ended_ = frame == nullptr;
    return Frame(ended_ ? nullptr : av_frame_clone(frame));
  }

  /// One frame more than is given: so it is known how long that one is shown.
  void look_ahead() {
    try {
      held_ = next();
    } catch (const BrokeOff& broke) {
      ahead_failed_ = broke;  // comes after the frame in front of it
    }
  }

  /// The next decoded frame, nullptr at the end; throws BrokeOff after the last good one.
  AVFrame* decoded() {
    for (;;) {
      const int code = avcodec_receive_frame(decoder_.get(), frame_.get());
      if (code == 0) {
        decoded_any_ = true;
        if (draining_ && !reason_.empty() && frame_->flags & AV_FRAME_FLAG_CORRUPT) continue;
        if (untimed_) frame_->pts = std::llround(steady_seconds() * kTicks);
        return frame_.get();
      }
      if (draining_) {
        if (code != AVERROR_EOF && code != AVERROR(EAGAIN) && reason_.empty()) reason_ = words_of(code);
        if (!reason_.empty()) throw BrokeOff{reason_};
        return nullptr;
      }
      if (code != AVERROR(EAGAIN)) refused(code);
      if (!draining_) feed();
    }
  }

  /// The decoder did not like a packet: before the first key frame, or on a lossy network, it goes on.
  void refused(int code) {
    if (decoded_any_ && is_file_) drain(words_of(code));
  }

  void drain(const std::string& reason) {
    reason_ = reason;
    draining_ = true;
    avcodec_send_packet(decoder_.get(), nullptr);
  }

  void feed() {
    if (!is_file_) deadline_ = steady_seconds() + silence_;
    const int code = av_read_frame(container_.get(), packet_.get());
    if (code < 0) {
      if (interrupted_) return drain("");
      if (code == AVERROR_EXIT || code == AVERROR(ETIMEDOUT)) {
        throw VideoError(uri_.text + ": no frame came in time");
      }
      return drain(code == AVERROR_EOF ? "" : words_of(code));
    }
    const PacketHold hold{packet_.get()};
    if (packet_->stream_index != stream_->index) return;
    if (packet_->flags & AV_PKT_FLAG_CORRUPT && is_file_ && knows_its_length()) {
      return drain("the file ends in the middle of a frame");
    }
    if (info_.live && packet_->pts != AV_NOPTS_VALUE && !untimed_) {
      arrivals_.note(static_cast<double>(packet_->pts) * av_q2d(stream_->time_base), steady_seconds());
    }
    const int sent = avcodec_send_packet(decoder_.get(), packet_.get());
    if (sent < 0) refused(sent);
  }

  VideoFrame converted(const AVFrame& frame) {
    const cv::Size size(frame.width, frame.height);
    resized_ += size != coded_;
    VideoFrame result;
    result.damaged = frame.flags & AV_FRAME_FLAG_CORRUPT;
    damaged_ += result.damaged;
    result.pts = clock_->next(ticks_of(frame));
    result.gap = clock_->restarted;
    result.duration = duration_of(frame);
    result.image = orientation_.applied(pixels(frame));
    result.index = given_++;
    end_ = result.pts + result.duration;
    if (info_.live) {
      const double now = steady_seconds();
      const std::int64_t ticks = ticks_of(frame);
      result.captured = ticks == AV_NOPTS_VALUE || untimed_
                            ? now
                            : arrivals_.captured(static_cast<double>(ticks) * info_.time_base.value(), now);
    }
    return result;
  }

  cv::Mat pixels(const AVFrame& frame) {
    const ColorInfo color = color_of(frame);
    // a row more than is used: swscale may write a little beyond the last one
    cv::Mat image = cv::Mat(coded_.height + 1, coded_.width, CV_8UC3).rowRange(0, coded_.height);
    const bool plain = frame.format == AV_PIX_FMT_YUV420P || frame.format == AV_PIX_FMT_YUVJ420P;
    if (plain && cv::Size(frame.width, frame.height) == coded_) {
      const int* table = sws_getCoefficients(*swscale_matrix(color.matrix));
      const YuvColors colors{table[0], table[1], table[2], table[3], color.full_range};
      bgr_from_yuv420({{frame.data[0], frame.data[1], frame.data[2]},
                       {frame.linesize[0], frame.linesize[1], frame.linesize[2]}},
                      chroma_place(frame.chroma_location), colors, image);
      return image;
    }
    Pixels from{{frame.width, frame.height}, frame.format};
    from.chroma = frame.chroma_location;
    if (color.matrix != AVCOL_SPC_RGB) {
      from.matrix = *swscale_matrix(color.matrix);
      from.full_range = color.full_range;
    }
    if (!scaler_ || !(from == from_)) {
      from_ = from;
      scaler_.emplace(from, Pixels{coded_, AV_PIX_FMT_BGR24});
    }
    std::uint8_t* planes[4] = {image.data, nullptr, nullptr, nullptr};
    const int strides[4] = {static_cast<int>(image.step), 0, 0, 0};
    if (!scaler_->run(frame.data, frame.linesize, planes, strides)) {
      throw VideoError(uri_.text + ": its pixels cannot be converted");
    }
    return image;
  }

  /// Ticks until the next frame, or the end of the video. What the file says of one frame is the distance to the next
  /// one stored, which with B-frames is another.
  std::int64_t duration_of(const AVFrame& frame) const {
    const std::int64_t begin = ticks_of(frame);
    std::int64_t ticks = 0;
    if (begin != AV_NOPTS_VALUE && held_) {
      ticks = ticks_of(*held_) - begin;
    } else if (begin != AV_NOPTS_VALUE && expected_ > 0 && expected_ <= given_ + 1 && stream_->duration > 0) {
      ticks = (stream_->start_time == AV_NOPTS_VALUE ? 0 : stream_->start_time) + stream_->duration - begin;
    }
    if (ticks <= 0) ticks = packet_duration(frame);
    return ticks > 0 ? ticks : step_;
  }

  static std::int64_t ticks_of(const AVFrame& frame) {
    return frame.pts != AV_NOPTS_VALUE ? frame.pts : frame.pkt_dts;
  }

  // -- the end ----------------------------------------------------------------------------------------------------

  [[noreturn]] void fail(const BrokeOff& broke) {
    note_damage();
    error_.emplace(uri_.text + ": broke off after frame " + std::to_string(given_) +
                   (info_.frame_count ? " of " + std::to_string(*info_.frame_count) : "") + " (" +
                   with_digits(static_cast<double>(end_) * info_.time_base.value(), 1) + " s): " + broke.reason);
    throw *error_;
  }

  /// Did as much arrive as the file promised? Edit lists shorten the time, so both must be short.
  void check_complete() {
    if (length_ <= 0 || !knows_its_length()) return;
    const double base = info_.time_base.value(), frame = static_cast<double>(step_) * base;
    const bool late = length_ - static_cast<double>(end_) * base > std::max(2 * frame, length_ / 50);
    const bool few = expected_ <= 0 || expected_ - given_ > std::max<std::int64_t>(2, expected_ / 50);
    if (late && few) throw BrokeOff{"the rest of the file is missing"};
  }

  void note_damage() {
    if (damaged_) warnings_.push_back(uri_.text + ": " + std::to_string(damaged_) + " frames are damaged");
    if (resized_) {
      warnings_.push_back(uri_.text + ": " + std::to_string(resized_) + " frames had another size and were scaled to " +
                          std::to_string(coded_.width) + "x" + std::to_string(coded_.height));
    }
    damaged_ = resized_ = 0;
  }

  bool format_has(const std::string& name) const {
    return std::string(container_->iformat->name).find(name) != std::string::npos;
  }
  bool format_is(const std::string& name) const { return container_->iformat->name == name; }
  bool knows_its_length() const { return format_has("mp4") || format_has("matroska") || format_has("avi"); }

  SourceUri uri_;
  bool is_file_ = true;
  Container container_;
  AVStream* stream_ = nullptr;
  Decoder decoder_;
  Frame frame_{av_frame_alloc()};
  Packet packet_{av_packet_alloc()};
  Frame held_;  // decoded, and not given yet
  std::optional<Scaler> scaler_;
  Pixels from_{};  // what it converts
  std::optional<Timestamps> clock_;
  Orientation orientation_;
  ArrivalClock arrivals_;
  cv::Size coded_;
  double length_ = 0;  // seconds, as the file says
  std::int64_t expected_ = 0, step_ = 1, given_ = 0, end_ = 0, damaged_ = 0, resized_ = 0;
  bool untimed_ = false, decoded_any_ = false, draining_ = false, ended_ = false;
  std::string reason_;
  std::optional<BrokeOff> ahead_failed_;
  std::optional<EndedEarlyError> error_;
  std::atomic<bool> interrupted_{false};
  std::atomic<double> deadline_{0};
  double silence_ = kTimeout;
};

}  // namespace

std::unique_ptr<Source> open_video(const SourceUri& uri) {
  av_log_set_level(AV_LOG_FATAL);  // our messages say it
  return std::make_unique<FfmpegSource>(uri);
}

cv::Mat decoded_png(const unsigned char* data, std::size_t size) {
  const AVCodec* codec = avcodec_find_decoder(AV_CODEC_ID_PNG);
  if (codec == nullptr) return {};
  const Decoder decoder(avcodec_alloc_context3(codec));
  const Packet packet(av_packet_alloc());
  const Frame frame(av_frame_alloc());
  if (av_new_packet(packet.get(), static_cast<int>(size)) < 0) return {};
  std::copy_n(data, size, packet->data);
  decoder->thread_count = 1;  // with more it waits for further pictures
  if (avcodec_open2(decoder.get(), codec, nullptr) < 0 || avcodec_send_packet(decoder.get(), packet.get()) < 0 ||
      avcodec_receive_frame(decoder.get(), frame.get()) < 0) {
    return {};
  }
  const bool alpha = frame->format == AV_PIX_FMT_RGBA;
  if (!alpha && frame->format != AV_PIX_FMT_RGB24) return {};
  const cv::Mat pixels(frame->height, frame->width, alpha ? CV_8UC4 : CV_8UC3, frame->data[0],
                       static_cast<std::size_t>(frame->linesize[0]));
  cv::Mat image;
  cv::cvtColor(pixels, image, alpha ? cv::COLOR_RGBA2BGRA : cv::COLOR_RGB2BGR);
  return image;
}

std::string video_library() { return "FFmpeg (libavformat " + std::to_string(avformat_version() >> 16) + ")"; }

}  // namespace genedge
