// What reading and writing with FFmpeg's libraries share. Versions 4.2 (JetPack 5) to 7.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <optional>
#include <opencv2/core.hpp>
#include <string>

#include "live.hpp"
#include "text.hpp"
#include "yuv.hpp"

namespace genedge {

// bilinear + accurate rounding + chroma interpolated to full resolution, as in runtime/video/source.py
inline constexpr int kSwsFlags = SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT;

struct FreeScaler {
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};
struct FreeContainer {
  void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
};
struct FreeCodec {
  void operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
};
struct FreeFrame {
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
};
struct FreePacket {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};
using Container = std::unique_ptr<AVFormatContext, FreeContainer>;
using Decoder = std::unique_ptr<AVCodecContext, FreeCodec>;
using Frame = std::unique_ptr<AVFrame, FreeFrame>;
using Packet = std::unique_ptr<AVPacket, FreePacket>;

/// Frees what a packet holds, not the packet.
struct PacketHold {
  AVPacket* packet;
  ~PacketHold() { av_packet_unref(packet); }
};

/// FFmpeg's reason, in lower case.
inline std::string words_of(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof text);
  return lower(std::string(text, 1)) + (text + 1);
}

inline bool sane(AVRational rate) { return rate.num > 0 && rate.den > 0 && av_q2d(rate) <= 1000; }

/// swscale's number for a matrix of H.273, nothing for one that it does not know.
inline std::optional<int> swscale_matrix(int matrix) {
  switch (matrix) {
    case AVCOL_SPC_BT709: return SWS_CS_ITU709;
    case AVCOL_SPC_FCC: return SWS_CS_FCC;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M: return SWS_CS_ITU601;
    case AVCOL_SPC_SMPTE240M: return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL: return SWS_CS_BT2020;
    default: return std::nullopt;
  }
}

/// The matrix that players assume for untagged video: BT.709 for HD, BT.601 below.
inline int matrix_for_size(cv::Size size) {
  return size.height >= 720 || size.width >= 1280 ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
}

/// One side of a conversion. `matrix`: swscale's number. `chroma`: where the colours of a 4:2:0 picture were sampled.
struct Pixels {
  cv::Size size;
  int format;
  int matrix = SWS_CS_DEFAULT;
  bool full_range = true;
  int chroma = AVCHROMA_LOC_UNSPECIFIED;

  bool operator==(const Pixels& other) const {
    return size == other.size && format == other.format && matrix == other.matrix && full_range == other.full_range &&
           chroma == other.chroma;
  }
};

/// Colours lie in the middle of their pixels unless the stream says otherwise, as FFmpeg 8's swscale has it.
inline ChromaPlace chroma_place(int location) {
  const bool left = location == AVCHROMA_LOC_LEFT || location == AVCHROMA_LOC_TOPLEFT ||
                    location == AVCHROMA_LOC_BOTTOMLEFT;
  const bool top = location == AVCHROMA_LOC_TOP || location == AVCHROMA_LOC_TOPLEFT;
  const bool bottom = location == AVCHROMA_LOC_BOTTOM || location == AVCHROMA_LOC_BOTTOMLEFT;
  return {left ? 0 : 2, top ? 0 : bottom ? 4 : 2};
}

/// A conversion by swscale. Before FFmpeg 7 it takes the nearest row of colours where it makes RGB of a picture whose
/// colours have fewer rows, so these get all rows first, in 16 bits.
class Scaler {
 public:
  Scaler(const Pixels& from, const Pixels& to) : from_(from) {
    const auto* format = av_pix_fmt_desc_get(static_cast<AVPixelFormat>(from.format));
    if (format->log2_chroma_h == 0 || to.format != AV_PIX_FMT_BGR24) {
      last_ = context_for(from, to);
      return;
    }
    between_ = {to.size, AV_PIX_FMT_YUV444P16LE, from.matrix, from.full_range};
    first_ = context_for(from, between_);
    last_ = context_for(between_, to);
    picture_.reset(av_frame_alloc());
    picture_->format = between_.format;
    picture_->width = to.size.width;
    picture_->height = to.size.height;
    if (av_frame_get_buffer(picture_.get(), 0) < 0) last_.reset();
  }

  /// False where swscale cannot do it.
  bool run(const std::uint8_t* const* planes, const int* strides, std::uint8_t* const* out, const int* out_strides) {
    if (!last_ || (picture_ && !first_)) return false;
    int height = from_.size.height;
    if (picture_) {
      sws_scale(first_.get(), planes, strides, 0, height, picture_->data, picture_->linesize);
      planes = picture_->data;
      strides = picture_->linesize;
      height = picture_->height;
    }
    return sws_scale(last_.get(), planes, strides, 0, height, out, out_strides) > 0;
  }

 private:
  using Context = std::unique_ptr<SwsContext, FreeScaler>;

  static void set_chroma(SwsContext* scaler, const std::string& side, const Pixels& pixels) {
    const auto* format = av_pix_fmt_desc_get(static_cast<AVPixelFormat>(pixels.format));
    const ChromaPlace place = chroma_place(pixels.chroma);
    const int x = place.x * 64 * ((1 << format->log2_chroma_w) - 1), y = place.y * 64 * ((1 << format->log2_chroma_h) - 1);
    if (format->log2_chroma_w) av_opt_set_int(scaler, (side + "_h_chr_pos").c_str(), x, 0);
    if (format->log2_chroma_h) av_opt_set_int(scaler, (side + "_v_chr_pos").c_str(), y, 0);
  }

  static Context context_for(const Pixels& from, const Pixels& to) {
    Context scaler(sws_alloc_context());
    const auto set = [&](const char* name, int value) { av_opt_set_int(scaler.get(), name, value, 0); };
    set("srcw", from.size.width);
    set("srch", from.size.height);
    set("src_format", from.format);
    set("dstw", to.size.width);
    set("dsth", to.size.height);
    set("dst_format", to.format);
    set("sws_flags", kSwsFlags);
    set("src_range", from.full_range);
    set("dst_range", to.full_range);
    set_chroma(scaler.get(), "src", from);
    set_chroma(scaler.get(), "dst", to);
    if (sws_init_context(scaler.get(), nullptr, nullptr) < 0) return nullptr;
    sws_setColorspaceDetails(scaler.get(), sws_getCoefficients(from.matrix), from.full_range,
                             sws_getCoefficients(to.matrix), to.full_range, 0, 1 << 16, 1 << 16);
    return scaler;
  }

  Pixels from_, between_{};
  Context first_, last_;
  Frame picture_;  // between the two, where there are two
};

inline const std::int32_t* display_matrix(AVStream* stream) {
#if LIBAVFORMAT_VERSION_INT >= AV_VERSION_INT(60, 15, 100)
  const auto* parameters = stream->codecpar;
  const auto* data = av_packet_side_data_get(parameters->coded_side_data, parameters->nb_coded_side_data,
                                             AV_PKT_DATA_DISPLAYMATRIX);
  return data == nullptr ? nullptr : reinterpret_cast<const std::int32_t*>(data->data);
#else
  return reinterpret_cast<const std::int32_t*>(av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
#endif
}

inline bool is_interlaced(const AVFrame& frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 7, 100)
  return frame.flags & AV_FRAME_FLAG_INTERLACED;
#else
  return frame.interlaced_frame;
#endif
}

inline std::int64_t packet_duration(const AVFrame& frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 30, 100)
  return frame.duration;
#else
  return frame.pkt_duration;
#endif
}

}  // namespace genedge
