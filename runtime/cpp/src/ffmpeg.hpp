// What reading and writing with FFmpeg's libraries share. Versions 4.2 (JetPack 5) to 7.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <optional>
#include <opencv2/core.hpp>
#include <string>

#include "live.hpp"
#include "text.hpp"

namespace genedge {

// bilinear + accurate rounding + chroma interpolated to full resolution, as in runtime/video/source.py
inline constexpr int kSwsFlags = SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT;

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

/// Tell a scaler how the pixels mean colour, on both sides.
inline void set_colors(SwsContext* scaler, int from, bool from_full, int to, bool to_full) {
  sws_setColorspaceDetails(scaler, sws_getCoefficients(from), from_full, sws_getCoefficients(to), to_full, 0, 1 << 16,
                           1 << 16);
}

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
