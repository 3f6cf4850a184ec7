{{- define "fitserve.selector" -}}
app.kubernetes.io/name: fitserve
app.kubernetes.io/instance: {{ .root.Values.name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "fitserve.labels" -}}
app.kubernetes.io/name: fitserve
app.kubernetes.io/instance: {{ .Values.name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "fitserve.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.worker.userId }}
runAsGroup: {{ .Values.worker.groupId }}
fsGroup: {{ .Values.worker.groupId }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fitserve.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "fitserve.credentials" -}}
{{- if .Values.endpoint.credentials.existingSecret -}}
{{ .Values.endpoint.credentials.existingSecret }}
{{- else -}}
{{ .Values.name }}-credentials
{{- end -}}
{{- end }}
