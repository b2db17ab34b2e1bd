{{/* The start of every object's name. */}}
{{- define "projector.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that never change: (dict "root" $ "name" COMPONENT). */}}
{{- define "projector.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{/* Labels of an object: (dict "root" $ "name" COMPONENT). */}}
{{- define "projector.labels" -}}
{{ include "projector.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* The metadata of a component's object: (dict "root" $ "name" COMPONENT). */}}
{{- define "projector.metadata" -}}
name: {{ include "projector.fullname" .root }}-{{ .name }}
labels:
  {{- include "projector.labels" . | nindent 2 }}
{{- end -}}

{{/* The image. */}}
{{- define "projector.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes, such as 500m or 1Gi, as a number. */}}
{{- define "projector.quantity" -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $text := include "projector.text" . -}}
{{- mulf (regexFind "^[0-9.]+" $text) (get $factors (regexFind "[A-Za-z]*$" $text)) -}}
{{- end -}}

{{/* A number as the product reads it: Helm has 1048576 as 1.048576e+06. */}}
{{- define "projector.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}
